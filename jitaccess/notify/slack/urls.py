from __future__ import annotations

from django.urls import path

from requests_app.stubs import endpoint_to_come, page_to_come

app_name = "slack"
urlpatterns = [
    path("install/", page_to_come("Slack"), name="slack_install"),
    path("link/<str:code>/", page_to_come("Link to Slack"), name="slack_link"),
    # Slack calls these; a slash at the end would be redirected, which it does not follow.
    path("events", endpoint_to_come, name="slack_events"),
    path("interactive", endpoint_to_come, name="slack_interactive"),
    path("commands", endpoint_to_come, name="slack_commands"),
]
