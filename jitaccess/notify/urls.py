from __future__ import annotations

from django.urls import path

from jitaccess.notify import pages
from jitaccess.notify.webhooks import pages as hooks

app_name = "notify"
urlpatterns = [
    path("preferences/", pages.preferences, name="preferences"),
    path("preferences/teams/<uuid:team_id>/", pages.team_preferences, name="team_preferences"),
    path("webhooks/", hooks.webhooks, name="webhooks"),
    path("webhooks/new/", hooks.new, name="webhook_new"),
    path("webhooks/<uuid:endpoint_id>/", hooks.webhook, name="webhook"),
    path("webhooks/<uuid:endpoint_id>/change/", hooks.change, name="webhook_change"),
    path("webhooks/<uuid:endpoint_id>/switch/", hooks.switch, name="webhook_switch"),
    path("webhooks/<uuid:endpoint_id>/remove/", hooks.remove, name="webhook_remove"),
    path("webhooks/<uuid:endpoint_id>/rotate/", hooks.rotate, name="webhook_rotate"),
    path("webhooks/<uuid:endpoint_id>/test/", hooks.test, name="webhook_test"),
    path("webhooks/<uuid:endpoint_id>/replay/", hooks.replay, name="webhook_replay"),
    path("webhooks/<uuid:endpoint_id>/deliveries/", hooks.deliveries, name="webhook_deliveries"),
    path("webhooks/<uuid:endpoint_id>/deliveries/<uuid:delivery_id>/", hooks.delivery, name="webhook_delivery"),
]
