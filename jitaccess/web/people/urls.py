"""Agents and grants."""

from __future__ import annotations

from django.urls import path

from jitaccess.web.people import views

urlpatterns = [
    path("agents/", views.agents, name="agents"),
    path("agents/<str:name>/", views.agent, name="agent"),
    path("agents/<str:name>/lock/", views.lock_agent, name="lock_agent"),
    path("grants/", views.grants, name="grants"),
    path("grants/<uuid:grant_id>/lock/", views.lock_grant, name="lock_grant"),
]
