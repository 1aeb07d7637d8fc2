from __future__ import annotations

from django.urls import path

from jitaccess.notify.slack import views

app_name = "slack"
urlpatterns = [
    path("", views.slack_install, name="slack_install"),
    path("link/<str:code>/", views.slack_link, name="slack_link"),
    path("unlink/", views.slack_unlink, name="slack_unlink"),
    path("messages/<uuid:card_id>/retry/", views.slack_retry, name="slack_retry"),
    # Slack calls these; a slash at the end would be redirected, which it does not follow.
    path("interactive", views.interactive, name="slack_interactive"),
    path("commands", views.commands, name="slack_commands"),
]
