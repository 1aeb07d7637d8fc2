from __future__ import annotations

from django.urls import path

from jitaccess.web.desk import bulk, views

urlpatterns = [
    path("", views.inbox, name="inbox"),
    path("inbox/part/", views.inbox_part, name="inbox_part"),
    path("requests/", views.request_list, name="requests"),
    path("requests/bulk/", bulk.bulk, name="bulk"),
    path("requests/<uuid:request_id>/", views.request_page, name="request"),
    path("requests/<uuid:request_id>/part/<slug:name>/", views.request_part, name="request_part"),
    path("requests/<uuid:request_id>/approve/", views.approve, name="approve"),
    path("requests/<uuid:request_id>/deny/", views.deny, name="deny"),
    path("requests/<uuid:request_id>/changes/", views.changes, name="changes"),
    path("requests/<uuid:request_id>/comment/", views.comment, name="comment"),
    path("grants/<uuid:grant_id>/revoke/", views.revoke, name="revoke"),
]
