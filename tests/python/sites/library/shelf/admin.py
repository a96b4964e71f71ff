from django.contrib import admin

from library.shelf.models import Document

admin.site.register(Document)
