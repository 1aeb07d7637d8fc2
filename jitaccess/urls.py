from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from jitaccess.api import webhooks
from jitaccess.api.authzen import urls as authzen
from jitaccess.notify.webhooks import plain

handler400, handler403 = "jitaccess.api.problems.handler400", "jitaccess.api.problems.handler403"
handler404, handler500 = "jitaccess.api.problems.handler404", "jitaccess.api.problems.handler500"

webhooks.plug(plain)
# Here and not with the app's start: no command and no gateway has an admin.
admin.autodiscover()

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("jitaccess.identity.urls")),
    path("api/", include("jitaccess.api.urls")),
    path("access/v1/", include("jitaccess.api.authzen.urls")),
    path(".well-known/", include(authzen.well_known)),
    path("slack/", include("jitaccess.notify.slack.urls")),
    path("", include("jitaccess.notify.urls")),
    path("", include("jitaccess.web.urls")),
]
