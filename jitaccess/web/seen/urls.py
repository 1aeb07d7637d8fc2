"""What happened, in all and one by one."""

from __future__ import annotations

from django.urls import path

from jitaccess.web.seen import activity, anomalies, overview

urlpatterns = [
    path("activity/", activity.activity, name="activity"),
    path("activity/export/", activity.export, name="activity_export"),
    path("activity/<uuid:uid>/", activity.entry_page, name="activity_entry"),
    path("overview/", overview.overview, name="overview"),
    path("overview/anomalies/", anomalies.anomalies, name="anomalies"),
    path("overview/anomalies/<slug:rule>/", anomalies.anomaly, name="anomaly"),
    path("overview/anomalies/<slug:rule>/explain/", anomalies.explain, name="explain_anomaly"),
]
