from __future__ import annotations

from django.apps import AppConfig


class WebConfig(AppConfig):
    name = "jitaccess.web"
    label = "jit_web"
    verbose_name = "Web"

    def ready(self) -> None:
        from allauth.account.decorators import secure_admin_login
        from django.contrib import admin

        # The admin's own login form knows neither allauth's rate limit nor our record of sign-ins.
        admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]
