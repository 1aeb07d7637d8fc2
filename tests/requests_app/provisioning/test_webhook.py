"""What goes out to a receiver, how it is signed, and what each answer means; against a real one."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.webhooks import sign, signing_key
from jitaccess.kernel.errors import Invalid
from requests_app.provisioning.kit import effect
from requests_app.provisioning.protocol import Permanent, Presence, ProvisionerError, Retryable
from requests_app.provisioning.rows import Target
from requests_app.provisioning.targets import set_secret
from requests_app.provisioning.tasks import provision, reconcile_targets
from requests_app.provisioning.webhook import Webhook
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock
from tests.requests_app.provisioning.play import granted, revoked, state, the_provision
from tests.requests_app.provisioning.receiver import OTHER_SECRET, SECRET, Receiver, receiving


def webhook(receiver: Receiver, **changes: Any) -> Webhook:
    values = {"url": receiver.url, "secrets": (SECRET,), "allowance": Allowance.parse(["127.0.0.1"]), "seconds": 5}
    return Webhook(**(values | changes))


@pytest.fixture
def receiver() -> Any:
    with receiving() as receiver:
        yield receiver


@pytest.mark.pure
def test_signatures_are_those_of_the_standard() -> None:
    """The example of the Standard Webhooks specification's libraries."""
    made = sign(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.pure
@pytest.mark.parametrize("secret", ["", "whsec_", "c2VjcmV0", "whsec_c2hvcnQ=", "whsec_!!!!", "whsec_" + "QUFB" * 40])
def test_secrets_that_are_none_are_refused_unquoted(secret: str) -> None:
    with pytest.raises(Invalid) as caught:
        signing_key(secret)
    assert caught.value.code == "provisioning.secret"
    assert len(secret) < 8 or secret not in str(caught.value)


@pytest.mark.pure
def test_a_message_says_all_and_is_the_same_each_time(receiver: Receiver) -> None:
    one = effect(7)
    receiver.after = 500
    for _ in range(2):
        with pytest.raises(Retryable):
            webhook(receiver).grant(one)
    assert receiver.bodies[0] == receiver.bodies[1]
    assert receiver.heard == [("grant", f"prov-grant-{one.attempt}")] * 2, "the receiver can tell a repetition"
    assert json.loads(receiver.bodies[0]) == {
        "type": "entitlement.grant",
        "data": {
            "id": str(one.id),
            "entitlement": "tool:git/git_commit",
            "agent": {"id": str(one.entitlement.agent), "name": "agent-7"},
            "user": None,
        },
    }


@pytest.mark.pure
def test_while_secrets_change_both_sign(receiver: Receiver) -> None:
    webhook(receiver, secrets=(OTHER_SECRET, SECRET)).grant(effect())
    assert len(receiver.signatures[-1].split(" ")) == 2
    assert receiver.there
    with pytest.raises(Permanent, match="401"):
        webhook(receiver, secrets=(OTHER_SECRET,)).revoke(effect(turn=2))
    assert receiver.there


@pytest.mark.pure
@pytest.mark.parametrize(
    ("status", "grant", "revoke", "verify"),
    [
        (200, None, None, None),
        (202, None, None, Presence.UNKNOWN),
        (302, Permanent, Permanent, Permanent),
        (400, Permanent, Permanent, Permanent),
        (403, Permanent, Permanent, Permanent),
        (404, Permanent, None, Permanent),
        (408, Retryable, Retryable, Retryable),
        (409, None, Permanent, Permanent),
        (410, Permanent, None, Permanent),
        (429, Retryable, Retryable, Retryable),
        (500, Retryable, Retryable, Retryable),
        (503, Retryable, Retryable, Retryable),
    ],
)
def test_what_each_answer_means(receiver: Receiver, status: int, grant: Any, revoke: Any, verify: Any) -> None:
    receiver.answer = status
    made = webhook(receiver)
    for step, meaning in ((made.grant, grant), (made.revoke, revoke)):
        if meaning is None:
            step(effect())
        else:
            with pytest.raises(meaning) as caught:
                step(effect())
            assert type(caught.value) is meaning
    if verify is None:
        with pytest.raises(Retryable, match="cannot be read"):
            made.verify(effect())
    elif isinstance(verify, Presence):
        assert made.verify(effect()) is verify
    else:
        with pytest.raises(verify):
            made.verify(effect())
    assert len(receiver.heard) == 3, "no redirect is followed, and nothing is sent twice"


@pytest.mark.pure
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"state": "absent"},
        {"id": str(uuid4()), "state": "absent"},
        {"id": str(effect().id), "state": "gone"},
        {"id": str(effect().id), "state": True},
    ],
)
def test_only_a_clear_answer_about_this_one_is_believed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    from aiohttp import web

    monkeypatch.setattr(receiver, "_answer", lambda *_: web.json_response(answer))
    assert webhook(receiver).verify(effect()) is Presence.UNKNOWN


@pytest.mark.pure
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"entitlements": {}}', b'{"entitlements": [1]}', b"x" * (9 << 20)]
)
def test_a_list_that_is_none_is_not_taken_for_an_empty_one(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    from aiohttp import web

    monkeypatch.setattr(receiver, "_answer", lambda *_: web.Response(body=body))
    with pytest.raises(Retryable):
        list(webhook(receiver).list())


@pytest.mark.pure
def test_ids_that_are_none_are_somebody_elses(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiohttp import web

    rows = [{"id": "1"}, {"id": 7, "name": "x"}, {"name": "a\u202eb"}, {"id": str(effect().id), "name": None}]
    monkeypatch.setattr(receiver, "_answer", lambda *_: web.json_response({"entitlements": rows}))
    found = [(one.id, one.name) for one in webhook(receiver).list()]
    assert found == [(None, ""), (None, "x"), (None, "a\\u{202e}b"), (effect().id, "")]


@pytest.mark.pure
def test_addresses_that_are_not_allowed_are_never_connected_to(receiver: Receiver) -> None:
    for changes in ({"allowance": Allowance()}, {"url": "http://169.254.169.254/latest"}, {"url": ""}):
        with pytest.raises(Permanent):
            webhook(receiver, **changes).grant(effect())
    with pytest.raises(Permanent, match="no secret"):
        webhook(receiver, secrets=()).validate(effect().entitlement)
    assert receiver.heard == []


@pytest.mark.pure
def test_an_answer_that_never_ends_and_one_that_is_huge_are_failures(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiohttp import web

    monkeypatch.setattr(receiver, "_answer", lambda *_: web.Response(body=b"x" * (1 << 20)))
    with pytest.raises(Retryable, match="larger than"):
        webhook(receiver).grant(effect())
    receiver.answer = "silence"
    with pytest.raises(Retryable, match=r"within 0\.2 seconds"):
        webhook(receiver, seconds=0.2).grant(effect())


@pytest.mark.pure
def test_what_people_are_shown_holds_no_key(receiver: Receiver) -> None:
    made = webhook(receiver, url="https://hooks.example.test/in/topsecret?key=1")
    assert made.describe() == "webhook to hooks.example.test:443"
    assert SECRET not in repr(made)
    assert issubclass(Permanent, ProvisionerError)


@pytest.mark.django_db
def test_the_whole_life_over_a_webhook(cast: Cast, receiver: Receiver, settings: Any, clock: Clock) -> None:
    settings.EGRESS_ALLOW = ["127.0.0.1"]
    target = Target.objects.create(slug="hook", kind="webhook", url=receiver.url, match="server:git")
    set_secret(target=target, secret=SECRET, operator=OPERATOR)
    grant = granted(cast, seconds=3600)
    receiver.after = 502  # done, and the answer got lost
    provision()
    assert (state(), list(receiver.there)) == ("granting", [str(the_provision().pk)])
    receiver.after = None
    clock.shift(3)
    provision()
    assert state() == "granted"
    assert len({message for kind, message in receiver.heard if kind == "grant"}) == 1
    receiver.there.clear()
    reconcile_targets()
    provision()
    assert (state(), len(receiver.there)) == ("granted", 1), "repaired, though the receiver sorts out repetitions"
    revoked(grant)
    receiver.answer = 404  # moved away: nobody is there to say that it is gone
    provision()
    assert (state(), len(receiver.there)) == ("revoking", 1)
    receiver.answer = None
    clock.shift(60)
    provision()
    assert (state(), receiver.there) == ("revoked", {})
