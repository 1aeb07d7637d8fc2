"""The command line on a running installation: asked, decided, used up and taken away by its verbs alone."""

from __future__ import annotations

import json
import subprocess
from typing import Any
from uuid import UUID

from tests.installation import COMMAND, ROOT, Installation, eventually


def test_the_whole_loop_by_verbs(installation: Installation) -> None:
    installation.execute("UPDATE jit_identity_user SET password = '" + _hash() + "' WHERE username = 'anna'")
    url = installation.up("--no-worker").url
    agent = {"JITACCESS_URL": url, "JITACCESS_TOKEN": installation.token("--ttl", "10m")}
    asking = subprocess.Popen(
        [COMMAND, "request", "git/git_commit", "--minutes", "15", "--reason", "Release notes", "--wait", "--json"],
        env=installation.env | agent, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        row = eventually(lambda: installation.query(_TABLE), what="a request")[0]
        asked = str(UUID(str(row["id"])))
        done = _decide(installation, asked[:13], "--json")
        assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "approved"), done.stderr
        out, err = asking.communicate(timeout=30)
    finally:
        asking.kill()
        asking.wait()
    assert (asking.returncode, json.loads(out)["status"]) == (0, "approved"), err
    grant = json.loads(out)["grant"]["grant_id"]
    assert installation.cli("revoke", grant[:13], "--reason", "Enough").returncode == 0
    again = subprocess.run(
        [COMMAND, "release", grant], env=installation.env | agent, cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert (again.returncode, "revoked" in again.stderr) == (4, True)
    told = [(entry["event"], entry["source"]) for entry in installation.ledger("decision.recorded")]
    assert [event for event, _ in told] == ["decision.recorded"]
    assert told[0][1].startswith("operator:")


_TABLE = "SELECT id FROM jit_requests_accessrequest"


def _decide(installation: Installation, asked: str, *more: str) -> Any:
    words = ["approve", asked, "--as", "anna", "--password-stdin", "--yes", *more]
    return subprocess.run(
        [COMMAND, *words],
        env=installation.env,
        cwd=ROOT,
        text=True,
        capture_output=True,
        input=f"{PASSWORD}\n",
        check=False,
    )


PASSWORD = "correct horse battery"


def _hash() -> str:
    from django.contrib.auth.hashers import PBKDF2PasswordHasher

    return PBKDF2PasswordHasher().encode(PASSWORD, "salt" * 6)
