from __future__ import annotations

from django.urls import path

from jitaccess.web import away, break_glass, views

app_name = "web"
urlpatterns = [
    path("", views.inbox, name="inbox"),
    path("requests/", views.request_list, name="requests"),
    path("requests/<uuid:request_id>/", views.request_page, name="request"),
    path("requests/<uuid:request_id>/approve/", views.approve, name="approve"),
    path("requests/<uuid:request_id>/deny/", views.deny, name="deny"),
    path("requests/<uuid:request_id>/changes/", views.changes, name="changes"),
    path("requests/<uuid:request_id>/comment/", views.comment, name="comment"),
    path("grants/<uuid:grant_id>/revoke/", views.revoke, name="revoke"),
    path("break-glass/", break_glass.overview, name="break_glass"),
    path("break-glass/<uuid:right_id>/use/", break_glass.use, name="use_break_glass"),
    path("break-glass/reviews/<uuid:grant_id>/", break_glass.review, name="review"),
    path("break-glass/reviews/<uuid:grant_id>/revoke/", break_glass.stop, name="stop_break_glass"),
    path("away/", away.overview, name="away"),
    path("away/hand-over/", away.hand_over, name="hand_over"),
    path("away/<uuid:delegation_id>/end/", away.end, name="end_delegation"),
    path("sign-in/<str:token>/", views.sign_in, name="sign_in"),
    path("favicon.ico", views.favicon),
    path("robots.txt", views.robots),
]
