from __future__ import annotations

from django.urls import path

from requests_app.stubs import form_to_come, page_to_come

app_name = "notify"
urlpatterns = [
    path("preferences/", page_to_come("Preferences"), name="preferences"),
    path("preferences/teams/<uuid:team_id>/", page_to_come("Preferences of a team"), name="team_preferences"),
    path("webhooks/", page_to_come("Webhooks"), name="webhooks"),
    path("webhooks/<uuid:endpoint_id>/", page_to_come("Webhook"), name="webhook"),
    path("webhooks/<uuid:endpoint_id>/deliveries/", page_to_come("Deliveries"), name="webhook_deliveries"),
    path("webhooks/<uuid:endpoint_id>/replay/", form_to_come("notify:webhook"), name="webhook_replay"),
    path("webhooks/<uuid:endpoint_id>/rotate/", form_to_come("notify:webhook"), name="webhook_rotate"),
]
