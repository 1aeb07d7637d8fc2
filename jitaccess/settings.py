"""Django settings. DATABASE_URL selects PostgreSQL, REDIS_URL selects Redis; without them everything lives in var/."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from jitaccess import env
from jitaccess.api import conf as api
from jitaccess.egress.addresses import Allowance
from jitaccess.kernel.secretbox import KeyRing, generate_key

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = Path(env.text("JITACCESS_VAR") or BASE_DIR / "var")
env.private_folder(VAR)

SECRET_KEY = env.secret("JITACCESS_SECRET_KEY", VAR / "secrets" / "secret_key")
SEALING_KEYS = env.secret("JITACCESS_KEYS", VAR / "secrets" / "sealing_keys", make=generate_key("k1"))
SEALING_KEYS_FILE = env.secret_file("JITACCESS_KEYS", VAR / "secrets" / "sealing_keys")
env.ensure("JITACCESS_KEYS", lambda: KeyRing.from_text(SEALING_KEYS))
METRICS_TOKEN = env.secret("JITACCESS_METRICS_TOKEN", VAR / "secrets" / "metrics_token")
DEBUG = env.flag("JITACCESS_DEBUG", default=False)

# `jitaccess up` leaves its address in var/url, so that commands beside it print links that work.
PUBLIC_URL = (env.text("JITACCESS_PUBLIC_URL") or env.content(VAR / "url") or "http://127.0.0.1:8000").rstrip("/")
_public = urlsplit(PUBLIC_URL)
env.ensure("JITACCESS_PUBLIC_URL", lambda: env.web_address(PUBLIC_URL))
ALLOWED_HOSTS = [
    _public.hostname or "127.0.0.1",
    "127.0.0.1",
    "localhost",
    "[::1]",
    *env.words("JITACCESS_ALLOWED_HOSTS"),
]
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
# Browsers may call the gateway only from these origins (DNS rebinding, MCP 2026-07-28 streamable HTTP, "Security").
GATEWAY_ALLOWED_ORIGINS = [PUBLIC_URL, *env.words("JITACCESS_ALLOWED_ORIGINS")]
# Where X-Forwarded-For and X-Forwarded-Proto are believed: anybody can send them.
TRUSTED_PROXIES = env.networks("JITACCESS_TRUSTED_PROXIES")
SERVERS_FILE = Path(env.text("JITACCESS_SERVERS_FILE") or VAR / "servers.json")
# How often each server is asked what it offers. It is asked at once when it says that this has changed.
CATALOGUE_SECONDS = env.number("JITACCESS_CATALOGUE_SECONDS", default=300)
# Of one agent (for one person) in one gateway process: so many requests a minute, so many at once after a pause.
RATE_PER_MINUTE = env.whole("JITACCESS_RATE_PER_MINUTE", default=6000)
RATE_BURST = env.whole("JITACCESS_RATE_BURST", default=1000)
# What requests of ours may reach although it is not public, or not over https: hosts, networks, host:port.
EGRESS_ALLOW = env.words("JITACCESS_EGRESS_ALLOW")
env.ensure("JITACCESS_EGRESS_ALLOW", lambda: Allowance.parse(EGRESS_ALLOW))
# What the words of other systems mean here, for the AuthZEN API; read anew when it changes.
AUTHZEN_FILE = Path(env.text("JITACCESS_AUTHZEN_FILE") or VAR / "authzen.yaml")

# Signed heads of the ledger, and the keys that sign them: outside the database, whose owner could rewrite history.
CHECKPOINTS = Path(env.text("JITACCESS_CHECKPOINTS") or VAR / "checkpoints")
CHECKPOINT_KEYS = Path(env.text("JITACCESS_CHECKPOINT_KEYS") or VAR / "secrets" / "checkpoint_keys")

DATABASE_URL = env.text("DATABASE_URL")
REDIS_URL = env.text("REDIS_URL")
ON_POSTGRESQL = bool(DATABASE_URL)

DRAIN_SECONDS = env.number("JITACCESS_DRAIN_SECONDS", default=0)
STOP_SECONDS = env.number("JITACCESS_STOP_SECONDS", default=10)
HEALTH_PORT = int(env.number("JITACCESS_HEALTH_PORT", default=0))

DATABASES = {
    "default": env.postgres(DATABASE_URL)
    if DATABASE_URL
    else {
        "ENGINE": "jitaccess.store.sqlite",
        "NAME": VAR / "jitaccess.sqlite3",
        # Opening the file with its PRAGMAs costs more than most queries.
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            # A transaction that reads and then writes holds the write lock from its start, or two approvers both win.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA recursive_triggers=ON;",
        },
    }
}
# Only tests set this: a file with seconds by which jit_now() is shifted, for every process that opens this SQLite file.
TEST_CLOCK_FILE = env.text("JITACCESS_TEST_CLOCK_FILE")

INSTALLED_APPS = [
    "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.mfa",
    "allauth.usersessions",
    "django_htmx",
    "jitaccess.store",
    "jitaccess.audit",
    "jitaccess.identity",
    "jitaccess.catalog",
    "jitaccess.policy",
    "requests_app",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "jitaccess.api",
    "jitaccess.gateway",
    "jitaccess.notify",
    "jitaccess.notify.slack",
    "jitaccess.notify.webhooks",
    "jitaccess.web",
]
MIDDLEWARE = [
    "jitaccess.web.middleware.SecurityHeaders",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "jitaccess.identity.signed_in.LastSeen",
    "jitaccess.identity.required.SecondFactorFirst",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "jitaccess.web.context.nav",
            ],
        },
    },
]
ROOT_URLCONF = "jitaccess.urls"
WSGI_APPLICATION = "jitaccess.runtime.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

AUTH_USER_MODEL = "jit_identity.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
LOGIN_REDIRECT_URL = "/"
LOGIN_URL = "/accounts/login/"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_ADAPTER = "jitaccess.identity.adapters.AccountAdapter"
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_REDIRECT_URL = "/accounts/login/"
# Guesses are counted by jitaccess.identity.attempts: by these counters strangers would keep people out.
ACCOUNT_RATE_LIMITS = dict.fromkeys(("login", "login_failed", "reauthenticate", "change_password"))
ACCOUNT_FORMS = {"change_password": "jitaccess.identity.factors.ChangePasswordForm"}

# How people sign in besides with a password of ours, and what they have to prove. No issuer: not by OpenID Connect.
OIDC_ISSUER = env.text("JITACCESS_OIDC_ISSUER")
OIDC_CLIENT_ID = env.text("JITACCESS_OIDC_CLIENT_ID")
OIDC_CLIENT_SECRET = env.text("JITACCESS_OIDC_CLIENT_SECRET")
OIDC_NAME = env.text("JITACCESS_OIDC_NAME", "single sign-on")
OIDC_CREATE = env.flag("JITACCESS_OIDC_CREATE", default=False)
OIDC_SCOPES = env.words("JITACCESS_OIDC_SCOPES") or ["openid", "profile", "email"]
LOCAL_PASSWORDS = env.flag("JITACCESS_LOCAL_PASSWORDS", default=True)
MFA_REQUIRED = env.choice("JITACCESS_MFA_REQUIRED", of=("none", "admins", "all"), default="none")
STEP_UP_SECONDS = env.whole("JITACCESS_STEP_UP_SECONDS", default=300)
STEP_UP_WITH = env.words("JITACCESS_STEP_UP_WITH") or ["password", "totp", "webauthn"]
SOCIALACCOUNT_ADAPTER = "jitaccess.identity.linking.SocialAccountAdapter"
SOCIALACCOUNT_STORE_TOKENS = SOCIALACCOUNT_EMAIL_AUTHENTICATION = SOCIALACCOUNT_LOGIN_ON_GET = False
MFA_ADAPTER = "jitaccess.identity.adapters.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = MFA_RECOVERY_CODES_SHOW_ONCE = MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_FORMS = {
    "authenticate": "jitaccess.identity.factors.CodeForm",
    "reauthenticate": "jitaccess.identity.factors.CodeAgainForm",
    "login_webauthn": "jitaccess.identity.factors.PasskeySignInForm",
    "authenticate_webauthn": "jitaccess.identity.factors.PasskeyForm",
    "reauthenticate_webauthn": "jitaccess.identity.factors.PasskeyAgainForm",
    "add_webauthn": "jitaccess.identity.factors.NewPasskeyForm",
}

REST_FRAMEWORK, SPECTACULAR_SETTINGS = api.REST_FRAMEWORK, api.SPECTACULAR_SETTINGS
API_READS_PER_MINUTE = env.whole("JITACCESS_API_READS_PER_MINUTE", default=600)
API_WRITES_PER_MINUTE = env.whole("JITACCESS_API_WRITES_PER_MINUTE", default=60)
CACHES = api.caches(REDIS_URL)

SESSION_ENGINE = "jitaccess.identity.sessions"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _public.scheme == "https"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
# Sent with answers over TLS only. No redirect from here: the proxy in front of us sees plain HTTP, we do not.
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _public.scheme == "https" else 0
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]  # subdomains and redirects are not ours

STATIC_URL = "/static/"
STATIC_ROOT = None  # WhiteNoise serves what the apps bring, straight from the packages
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

_mail = urlsplit(env.text("JITACCESS_EMAIL_URL"))
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if _mail.scheme in ('smtp', 'smtps') else 'console'}.EmailBackend"
EMAIL_HOST, EMAIL_PORT = _mail.hostname or "", _mail.port or 25
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail.username or "", _mail.password or ""
EMAIL_USE_SSL = _mail.scheme == "smtps"
EMAIL_USE_TLS = "starttls=true" in _mail.query
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.text("JITACCESS_EMAIL_FROM") or f"jitaccess@{_public.hostname}"
# Every notice is written to the log; e-mail goes out as well once there is a server to send it.
NOTIFY_CHANNELS = ["console", *(["email"] if _mail.scheme else [])]

# SLACK_BOT_TOKEN "": no Slack. Channels are ids, in which every new request is posted.
SLACK_BOT_TOKEN, SLACK_APP_TOKEN = env.text("JITACCESS_SLACK_BOT_TOKEN"), env.text("JITACCESS_SLACK_APP_TOKEN")
SLACK_SIGNING_SECRET = env.text("JITACCESS_SLACK_SIGNING_SECRET")
SLACK_APP_ID, SLACK_TEAM_ID = env.text("JITACCESS_SLACK_APP_ID"), env.text("JITACCESS_SLACK_TEAM_ID")
SLACK_ENTERPRISE_ID = env.text("JITACCESS_SLACK_ENTERPRISE_ID")
SLACK_CHANNELS = env.words("JITACCESS_SLACK_CHANNELS")
SLACK_MODE = env.choice("JITACCESS_SLACK_MODE", of=("socket", "http"), default="socket")
SLACK_API_URL = env.text("JITACCESS_SLACK_API_URL", "https://slack.com/api/")
# So long may an endpoint of webhooks fail before a delivery is given up, in days.
WEBHOOK_DAYS = env.whole("JITACCESS_WEBHOOK_DAYS", default=1)

# Separate processes are read by machines; the command line says which they are.
LOG_FORMAT = env.choice("JITACCESS_LOG_FORMAT", of=("json", "line"), default="line")
LOG_LEVEL = env.choice("JITACCESS_LOG_LEVEL", of=("debug", "info", "warning", "error"), default="info").upper()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "class": "jitaccess.kernel.discreet.DiscreetFormatter",
            "format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s",
            "datefmt": "%H:%M:%S",
        },
        "json": {"class": "jitaccess.kernel.discreet.JsonFormatter"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        # A refused form is an answer, not an incident.
        "django.request": {"level": "ERROR"},
        "jitaccess": {"level": LOG_LEVEL},
        "requests_app": {"level": LOG_LEVEL},
    },
}
