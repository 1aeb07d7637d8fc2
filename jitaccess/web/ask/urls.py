"""Asking: new requests, and what one has."""

from __future__ import annotations

from django.urls import path

from jitaccess.web.ask import views

urlpatterns = [
    path("requests/new/", views.new, name="new"),
    path("requests/new/check/", views.dry_run, name="new_dry_run"),
    path("requests/new/file/", views.file, name="file"),
    path("mine/", views.mine, name="mine"),
    path("requests/<uuid:request_id>/cancel/", views.cancel, name="cancel"),
    path("grants/<uuid:grant_id>/release/", views.release, name="release"),
    path("grants/<uuid:grant_id>/extend/", views.extend, name="extend"),
]
