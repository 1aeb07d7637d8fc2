"""The product's settings, read in an environment that holds for this one test process."""

from __future__ import annotations

import os

from tests import databases

os.environ.update(databases.environment())

from jitaccess.settings import *  # noqa: F403 - after the environment, which it reads
from jitaccess.settings import DATABASES, ON_POSTGRESQL, VAR

# What a test starts as a process of its own shall run with the real settings.
os.environ["DJANGO_SETTINGS_MODULE"] = "jitaccess.settings"

# A test may ask as fast as it can; the tests of limits set their own.
RATE_PER_MINUTE = RATE_BURST = 1_000_000_000
# Every client of Django's makes all middleware anew; WhiteNoise would look at each static file there is.
WHITENOISE_AUTOREFRESH = True
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if ON_POSTGRESQL:
    # Many tests are one transaction from beginning to end, in which they also compute; the product has none like that.
    options = DATABASES["default"]["OPTIONS"]
    options["options"] = options["options"].replace("session_timeout=5s", "session_timeout=60s")
else:
    # A file, so that threads get connections of their own, as in production.
    DATABASES["default"]["TEST"] = {"NAME": VAR / "test.sqlite3"}
    # The one difference: no test pulls the plug, so nothing waits for the disk.
    options = DATABASES["default"]["OPTIONS"]
    options["init_command"] = options["init_command"].replace("synchronous=FULL", "synchronous=OFF")
