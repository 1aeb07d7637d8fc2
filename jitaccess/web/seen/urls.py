from __future__ import annotations

from django.urls import path

from requests_app.stubs import page_to_come

urlpatterns = [
    path("activity/", page_to_come("Activity"), name="activity"),
    path("activity/export/", page_to_come("Activity"), name="activity_export"),
    path("activity/<uuid:uid>/", page_to_come("Entry"), name="activity_entry"),
    path("overview/", page_to_come("Overview"), name="overview"),
    path("overview/anomalies/", page_to_come("Anomalies"), name="anomalies"),
    path("overview/anomalies/<slug:rule>/", page_to_come("Anomaly"), name="anomaly"),
]
