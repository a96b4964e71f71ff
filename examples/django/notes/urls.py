from django.contrib import admin
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.http import HttpResponse
from django.urls import path

urlpatterns = [
    path("", lambda request: HttpResponse("Notes; the admin site is at /admin/\n")),
    path("admin/", admin.site.urls),
]
# With DEBUG on, Django serves the admin site's style sheets itself; in production a front end does.
urlpatterns += staticfiles_urlpatterns()
