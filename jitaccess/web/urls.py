from __future__ import annotations

from django.urls import include, path

from jitaccess.web import away, break_glass, design, views

app_name = "web"
urlpatterns = [
    path("", include("jitaccess.web.desk.urls")),
    path("", include("jitaccess.web.ask.urls")),
    path("", include("jitaccess.web.people.urls")),
    path("", include("jitaccess.web.things.urls")),
    path("", include("jitaccess.web.seen.urls")),
    path("break-glass/", break_glass.overview, name="break_glass"),
    path("break-glass/<uuid:right_id>/use/", break_glass.use, name="use_break_glass"),
    path("break-glass/reviews/<uuid:grant_id>/", break_glass.review, name="review"),
    path("break-glass/reviews/<uuid:grant_id>/revoke/", break_glass.stop, name="stop_break_glass"),
    path("away/", away.overview, name="away"),
    path("design/", design.design, name="design"),
    path("away/hand-over/", away.hand_over, name="hand_over"),
    path("away/<uuid:delegation_id>/end/", away.end, name="end_delegation"),
    path("sign-in/<str:token>/", views.sign_in, name="sign_in"),
    path("favicon.ico", views.favicon),
    path("robots.txt", views.robots),
]
