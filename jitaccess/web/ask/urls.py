from __future__ import annotations

from django.urls import path

from requests_app.stubs import form_to_come, page_to_come

urlpatterns = [
    path("requests/new/", page_to_come("New request"), name="new"),
    path("requests/new/check/", form_to_come("web:new"), name="new_dry_run"),
    path("requests/new/file/", form_to_come("web:new"), name="file"),
    path("mine/", page_to_come("My access"), name="mine"),
    path("requests/<uuid:request_id>/cancel/", form_to_come("web:request"), name="cancel"),
    path("grants/<uuid:grant_id>/release/", form_to_come("web:mine"), name="release"),
    path("grants/<uuid:grant_id>/extend/", form_to_come("web:mine"), name="extend"),
]
