"""Every variable is declared, documented, and missed when it is spelled wrongly."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from jitaccess import env
from jitaccess.kernel.discreet import discreet
from jitaccess.variables import VARIABLES, as_markdown, strangers
from tests.installation import COMMAND, ROOT

pytestmark = pytest.mark.pure

_READ = re.compile(r"(?:env\.\w+\(\s*|environ(?:\.get\(|\[|\.setdefault\())\"([A-Z][A-Z_]+)\"")
# Not ours, and what only tests set.
_OTHERS = re.compile(r"DJANGO_SETTINGS_MODULE|JITACCESS_TEST_\w+|NO_COLOR|TERM|COLUMNS")


def _sources() -> list[Path]:
    return [path for top in ("jitaccess", "requests_app") for path in (ROOT / top).rglob("*.py")]


def test_the_page_is_what_the_code_says() -> None:
    assert (ROOT / "docs/settings.md").read_text() == as_markdown(), (
        "run: .venv/bin/jitaccess settings --markdown > docs/settings.md"
    )


def test_every_variable_that_is_read_is_declared_and_every_declared_one_is_read() -> None:
    text = "\n".join(path.read_text() for path in _sources() if path.name != "variables.py")
    read = {name for name in _READ.findall(text) if not _OTHERS.fullmatch(name)}
    assert read <= set(VARIABLES)
    entry = (ROOT / "docker/entrypoint.sh").read_text()
    unread = {name for name in set(VARIABLES) - read if name not in text and name not in entry}
    assert unread == set()


def test_a_name_that_nobody_reads_is_told_with_what_was_meant() -> None:
    said = strangers(
        [
            "PATH",
            "JITACCESS_PUBLIC_UR",
            "JITACCESS_XYLOPHONE_ON",
            "JITACCESS_TEST_X",
            "JITACCESS_KEYS_FILE",
            "JITACCESS_VAR",
        ]
    )
    assert said == [
        "JITACCESS_PUBLIC_UR is set, but nobody reads it: did you mean JITACCESS_PUBLIC_URL?",
        "JITACCESS_XYLOPHONE_ON is set, but nobody reads it.",
    ]


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda: env.number("JITACCESS_STOP_SECONDS", default=1), "soon"),
        (lambda: env.number("JITACCESS_STOP_SECONDS", default=1), "-1"),
        (lambda: env.number("JITACCESS_STOP_SECONDS", default=1), "nan"),
        (lambda: env.number("JITACCESS_STOP_SECONDS", default=1), "inf"),
        (lambda: env.networks("JITACCESS_STOP_SECONDS"), "10.0.0.1/8"),
        (lambda: env.choice("JITACCESS_STOP_SECONDS", of=("a", "b"), default="a"), "c"),
        (lambda: env.flag("JITACCESS_STOP_SECONDS", default=False), "yes"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(
    read: object, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JITACCESS_STOP_SECONDS", value)
    with pytest.raises(ImproperlyConfigured, match="JITACCESS_STOP_SECONDS"):
        read()  # type: ignore[operator]


def test_what_is_declared_a_secret_is_masked_from_the_moment_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JITACCESS_KEYS", "k9:sealing-key-nine,k8:sealing-key-eight")
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone:pass%2Fword-x@db/jit")
    path = tmp_path / "token"
    path.write_text("metrics-token-from-a-file\n")
    monkeypatch.setenv("JITACCESS_METRICS_TOKEN_FILE", str(path))
    for name in ("JITACCESS_KEYS", "DATABASE_URL"):
        env.text(name)
    assert env.secret("JITACCESS_METRICS_TOKEN", tmp_path / "none") == "metrics-token-from-a-file"
    made = env.secret("JITACCESS_SECRET_KEY", tmp_path / "made")
    said = discreet(f"sealing-key-nine sealing-key-eight pass/word-x metrics-token-from-a-file {made} someone@db")
    assert said == "… … … … … someone@db"


def _check(var: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    values = {"PATH": os.environ["PATH"], "JITACCESS_VAR": str(var), "PYTHONWARNINGS": "ignore"} | environment
    return subprocess.run(
        [COMMAND, "check", *arguments], env=values, cwd=ROOT, text=True, capture_output=True, check=False
    )


def test_check_is_content_with_a_laptop_and_deploy_is_not(tmp_path: Path) -> None:
    laptop = _check(tmp_path / "var")
    assert (laptop.returncode, laptop.stdout) == (0, "Nothing to say.\n")
    bad = _check(
        tmp_path / "var",
        "--deploy",
        JITACCESS_DEBUG="true",
        JITACCESS_ALLOWED_HOSTS="*",
        JITACCESS_PUBLIC_UR="https://x.test",
        REDIS_URL="redis://redis.example:6379/0",
        DATABASE_URL="postgresql://jit:hush-hush@127.0.0.2:1/jit?sslmode=disable",
    )
    assert bad.returncode == 1
    for number in (1, 2, 3, 4, 6, 8):
        assert f"(jitaccess.E00{number})" in bad.stdout, number
    assert "did you mean JITACCESS_PUBLIC_URL?" in bad.stdout
    assert "hush-hush" not in bad.stdout + bad.stderr
    far = _check(tmp_path / "var", "--deploy", DATABASE_URL="postgresql://jit@db.invalid/jit")
    assert "sslmode=prefer lets somebody in between pretend to be db.invalid" in far.stdout


def test_check_deploy_passes_what_it_asks_for(tmp_path: Path) -> None:
    var = tmp_path / "var"
    good = _check(
        var,
        "--deploy",
        JITACCESS_PUBLIC_URL="https://jit.example",
        JITACCESS_TRUSTED_PROXIES="10.0.0.0/8",
        JITACCESS_EMAIL_URL="smtps://u:p@mail.example:465",
    )
    assert good.returncode == 0, good.stdout
    assert "ERROR" not in good.stdout
    (var / "secrets/secret_key").chmod(0o644)
    readable = _check(var, "--deploy", JITACCESS_PUBLIC_URL="https://jit.example")
    assert readable.returncode == 1
    assert "chmod 600" in readable.stdout


def test_a_database_host_that_is_gone_without_a_word_is_given_up_within_seconds() -> None:
    options = env.postgres("postgresql://u@h/d")["OPTIONS"]
    assert isinstance(options, dict)
    silent = sum(int(options[f"keepalives_{what}"]) for what in ("idle", "interval"))
    assert silent * int(options["keepalives_count"]) <= 30
    assert 0 < int(options["tcp_user_timeout"]) <= 30_000
    mine = env.postgres("postgresql://u@h/d?keepalives_idle=60")["OPTIONS"]
    assert isinstance(mine, dict)
    assert mine["keepalives_idle"] == "60"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("JITACCESS_KEYS", "abc", "The key abc is not base64 of 32 bytes."),
        ("JITACCESS_PUBLIC_URL", "ftp://x", "It must be http://NAME or https://NAME"),
        ("JITACCESS_PUBLIC_URL", "https://x/path", "It must be http://NAME or https://NAME"),
        ("JITACCESS_EGRESS_ALLOW", "*", '"*" is no host'),
    ],
)
def test_a_setting_that_cannot_be_used_is_said_before_anything_starts(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    env_ = {"PATH": os.environ["PATH"], "JITACCESS_VAR": str(tmp_path / "var"), name: value}
    done = subprocess.run([COMMAND, "up"], env=env_, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"jitaccess: {name}: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "var" / "jitaccess.sqlite3").exists()
