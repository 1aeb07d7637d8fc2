"""`make test`: every check in one run, one summary at the end.

Usage: python -m tests.run all | fast | browser | lint | nightly
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Three workers on two cores: tests with processes of their own wait a quarter of their time.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-n", "3", "--dist", "worksteal", "--durations", "25")
# A plugin that nothing here needs takes half a second to import, in each process.
PYTEST += ("-p", "no:schemathesis")
# Whatever the environment says: every worker and every process that tests start would compile everything anew.
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
LINT = {
    "ruff": (sys.executable, "-m", "ruff", "check", "."),
    "format": (sys.executable, "-m", "ruff", "format", "--check", "."),
    "layers": (str(Path(sys.executable).with_name("lint-imports")), "--no-cache"),
    "migrations": (sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"),
    "types": (sys.executable, "-m", "mypy", "jitaccess", "requests_app"),
}
LINT_VAR = tempfile.mkdtemp(prefix="jitaccess-lint-")
# Scenarios of bench/ that find broken guarantees, at their full length: hours.
MEASURED = ("revoke", "expiry", "uses", "policy-writes")
POSTGRESQL = {"JITACCESS_TEST_DATABASE": "postgresql"}


@dataclass(frozen=True)
class Step:
    name: str
    command: tuple[str, ...]
    env: dict[str, str]


def steps(what: str) -> list[Step]:
    """The steps of a run, in order; cheap ones first."""
    lint = [Step(name, command, {"JITACCESS_VAR": LINT_VAR}) for name, command in LINT.items()]
    sqlite = Step("sqlite", (*PYTEST, "tests"), {"JITACCESS_TEST_DATABASE": "sqlite"})
    postgresql = Step("postgresql", (*PYTEST, "-m", "not pure and not browser", "tests"), POSTGRESQL)
    fast = (
        "-m",
        "not browser",
        "--ignore",
        "tests/e2e",
        "--ignore",
        "tests/faults",
        "--ignore",
        "tests/gateway",
        "tests",
    )
    runs = {
        "lint": lint,
        "fast": [*lint[:1], Step("sqlite", (*PYTEST, *fast), {})],
        "browser": [Step("browser", (*PYTEST, "-m", "browser", "tests"), {"JITACCESS_TEST_BROWSER": "1"})],
        "all": [*lint, sqlite, postgresql],
        "nightly": [
            *(
                Step(step.name, (*step.command, "--timeout", "3600"), step.env | {"JITACCESS_HYPOTHESIS": "nightly"})
                for step in (sqlite, postgresql)
            ),
            *(Step(name, (sys.executable, "-m", "bench", name), {}) for name in MEASURED),
        ],
    }
    if what not in runs:
        raise SystemExit(f"Unknown run {what!r}; there are {', '.join(runs)}.")
    return runs[what]


class Running:
    """A step that has begun. `finish` prints what it says."""

    def __init__(self, step: Step) -> None:
        self.step, self.started, self.output = step, time.monotonic(), list[str]()
        self.process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=os.environ | COMPILED | step.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> bool:
        """Whether all was well."""
        assert self.process.stdout
        print(f"\n== {self.step.name}", flush=True)
        for line in self.process.stdout:
            print(line, end="", flush=True)
            self.output.append(line)
        return self.process.wait() == 0

    def __str__(self) -> str:
        verdict = "ok" if self.process.returncode == 0 else f"FAILED ({self.process.returncode})"
        return f"{self.step.name:<12} {verdict:<12} {time.monotonic() - self.started:6.0f} s"


def main() -> int:
    """Run every step, whatever fails; 1 if any did. Those of LINT run side by side: each has one thread."""
    failed, lines, passed, broken = 0, [], 0, 0
    left = steps(sys.argv[1] if len(sys.argv) > 1 else "all")
    while left:
        count = max(sum(step.name in LINT for step in left), 1)
        begun, left = [Running(step) for step in left[:count]], left[count:]
        for running in begun:
            failed += not running.finish()
            passed += _count("passed", running.output)
            broken += sum(_count(word, running.output) for word in ("failed", "error", "errors"))
            lines.append(str(running))
    print("\n== summary", *lines, sep="\n")
    if not _chromium() and os.environ.get("JITACCESS_TEST_BROWSER") != "1":
        print("No Chromium was found, so the browser tests were left out; `make test-browser` insists on them.")
    if not _nginx():
        print(
            "No nginx was found, so the test of forward-auth with it was left out; JITACCESS_TEST_NGINX=1 insists on it."
        )
    print(f"{passed} passed, {max(broken, failed)} failed")
    return 1 if failed else 0


def _count(word: str, output: list[str]) -> int:
    """The number before `word` in pytest's closing line."""
    closing = next((line for line in reversed(output) if re.search(r"\d+ (passed|failed|error)", line)), "")
    found = re.search(rf"(\d+) {word}\b", closing)
    return int(found.group(1)) if found else 0


def _nginx() -> str | None:
    from tests.nginx import nginx

    return nginx()


def _chromium() -> str | None:
    from tests.browser import chromium

    return chromium()


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        shutil.rmtree(LINT_VAR, ignore_errors=True)
