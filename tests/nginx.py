"""A real nginx for the test of forward-auth."""

from __future__ import annotations

import os
import shutil

PLACES = ("nginx", "/usr/sbin/nginx")


def nginx() -> str | None:
    """Its path: JITACCESS_TEST_NGINX_PATH, or the first that is installed."""
    return os.environ.get("JITACCESS_TEST_NGINX_PATH") or next(filter(None, map(shutil.which, PLACES)), None)


def wanted() -> bool:
    """Whether its test runs: where there is an nginx, and where one is insisted on."""
    return bool(nginx()) or os.environ.get("JITACCESS_TEST_NGINX") == "1"
