from django.contrib import admin
from django.urls import path

from library.shelf import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("documents/<int:number>", views.document),
    path("digest", views.digest),
    path("boom", views.boom),
]
