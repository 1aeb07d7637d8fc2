from __future__ import annotations

from django.urls import path

from jitaccess.web.desk import views
from requests_app.stubs import form_to_come, page_to_come

urlpatterns = [
    path("", views.inbox, name="inbox"),
    path("inbox/part/", page_to_come("Inbox"), name="inbox_part"),
    path("requests/", views.request_list, name="requests"),
    path("requests/bulk/", form_to_come("web:inbox"), name="bulk"),
    path("requests/<uuid:request_id>/", views.request_page, name="request"),
    path("requests/<uuid:request_id>/part/<slug:name>/", page_to_come("Request"), name="request_part"),
    path("requests/<uuid:request_id>/approve/", views.approve, name="approve"),
    path("requests/<uuid:request_id>/deny/", views.deny, name="deny"),
    path("requests/<uuid:request_id>/changes/", views.changes, name="changes"),
    path("requests/<uuid:request_id>/comment/", views.comment, name="comment"),
    path("grants/<uuid:grant_id>/revoke/", views.revoke, name="revoke"),
]
