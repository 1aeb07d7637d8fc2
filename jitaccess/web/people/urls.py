from __future__ import annotations

from django.urls import path

from requests_app.stubs import page_to_come

urlpatterns = [
    path("agents/", page_to_come("Agents"), name="agents"),
    path("agents/<str:name>/", page_to_come("Agent"), name="agent"),
    path("grants/", page_to_come("Grants"), name="grants"),
]
