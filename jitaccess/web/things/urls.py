from __future__ import annotations

from django.urls import path

from requests_app.stubs import form_to_come, page_to_come

urlpatterns = [
    path("servers/", page_to_come("Servers"), name="servers"),
    path("servers/<slug:slug>/", page_to_come("Server"), name="server"),
    path("servers/<slug:slug>/classify/", form_to_come("web:server"), name="classify"),
    path("simulator/", page_to_come("Simulator"), name="simulator"),
    path("locks/", page_to_come("Locks"), name="locks"),
    path("locks/new/", form_to_come("web:locks"), name="lock"),
    path("locks/<uuid:lock_id>/lift/", form_to_come("web:locks"), name="unlock"),
]
