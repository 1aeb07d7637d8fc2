"""What a click, a form or a command does. Services decide; who pressed is asked of the links, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.conf import settings

from jitaccess.identity.models import User
from jitaccess.identity.services import agents_for
from jitaccess.kernel.errors import Forbidden, Invalid, JitAccessError
from jitaccess.kernel.text import visible
from jitaccess.notify.slack import asking, cards, checking, modals
from jitaccess.notify.slack import blocks as kit
from jitaccess.notify.slack.client import SlackFailed, call
from jitaccess.notify.slack.linking import confirm, disown, issue_code, link_of
from jitaccess.notify.slack.message import CHANNEL, may_approve_here
from jitaccess.notify.slack.models import SlackCard, SlackLink
from jitaccess.notify.slack.values import Pressed, Verb
from jitaccess.store.clock import now
from requests_app import selectors, standing
from requests_app.card.card import title_of
from requests_app.card.effects import choices_of
from requests_app.card.status import said_of
from requests_app.lifecycle import DecisionVerdict
from requests_app.selectors import AccessRequest
from requests_app.services import Narrow, approve_request, ask_for_changes, deny_request

log = logging.getLogger("jitaccess.slack")

_NOT_LINKED = "Slack does not say who you are in jitaccess. Type /access link, and sign in once."
_HELP = "/access asks for access for an agent of yours. /access link makes you known here, /access unlink ends that."
# Slack opens a form within three seconds of the click.
_TOO_LATE = frozenset({"expired_trigger_id", "exchanged_trigger_id", "trigger_expired", "trigger_exchanged"})


def answer(kind: str, payload: Mapping[str, Any], *, team: str, slack_user: str) -> Mapping[str, Any] | None:
    """What is answered at once, and done by then: linking; None for what is to be written down first."""
    if kind in {"block_suggestion", "view_submission"}:
        link = link_of(team, slack_user)
        if kind == "block_suggestion":
            return asking.suggestions(payload, link.user if link else None)
        return checking.check(payload, link.user, source=f"slack {team}/{slack_user}") if link else None
    if kind != "command":
        return None
    words = _text(payload, "text").split()
    if len(words) == 2 and words[0].lower() == "link":
        return _private(_confirmed(team, slack_user, words[1]))
    if [word.lower() for word in words] == ["link"]:
        url = issue_code(
            team=team,
            team_name=_text(payload, "team_domain"),
            slack_user=slack_user,
            slack_name=_text(payload, "user_name"),
        )
        return _private(
            f"Open this within ten minutes, in the browser you use for jitaccess: {url} The page tells you a code to "
            "type here. Give the address to nobody."
        )
    if [word.lower() for word in words] == ["unlink"]:
        ended = disown(team=team, slack_user=slack_user)
        return _private("Unlinked. What you press here counts as nobody's." if ended else "You are not linked.")
    if words:
        return _private(_HELP)
    return None if link_of(team, slack_user) else _private(_NOT_LINKED)


def carry_out(kind: str, payload: Mapping[str, Any], *, team: str, slack_user: str) -> None:
    """Do what was taken in; a refusal is told to whoever pressed. Safe to run twice. Raises SlackFailed."""
    act = _Act(team, slack_user, _where(payload))
    try:
        link = link_of(team, slack_user)
        if link is None:
            raise Forbidden("slack.not_linked", _NOT_LINKED)
        said = act.of(link, kind, payload)
    except JitAccessError as error:
        said = error.detail
    if said:
        act.tell(said)


class _Act:
    """One thing that somebody did. `where` is the channel they did it in, "" when that is not known."""

    def __init__(self, team: str, slack_user: str, where: str) -> None:
        self._slack_user, self._where = slack_user, where
        self._source = f"slack {team}/{slack_user}"

    def of(self, link: SlackLink, kind: str, payload: Mapping[str, Any]) -> str:
        """What to tell them, "" for nothing. Raises JitAccessError."""
        if kind == "command":
            return self._form_for_access(link.user, payload)
        if kind == "block_actions":
            return self._press(link, payload)
        view = payload.get("view")
        callback = view.get("callback_id") if isinstance(view, dict) else ""
        private = view.get("private_metadata") if isinstance(view, dict) else ""
        filled = modals.filled_of(payload)
        if callback == modals.ACCESS:
            for request in asking.file(filled, link.user, source=self._source):
                cards.tell_filer(request, link)
            return ""
        pressed = Pressed.read(private if isinstance(private, str) else "")
        if callback != pressed.verb.value:
            raise Invalid("slack.form", "This form is not one of jitaccess.")
        card = self._card(pressed, link)
        self._where = card.channel
        return self._submit(pressed, filled, link)

    def tell(self, text: str) -> None:
        """To them alone. Where Slack does not allow that, as a message of their own; or not at all: cards say it."""
        text = visible(text, limit=1000, multiline=True)
        said = {"text": kit.escaped(text), "blocks": list(kit.sections(text))}
        try:
            if self._where:
                call("chat.postEphemeral", channel=self._where, user=self._slack_user, **said)
                return
        except SlackFailed as error:
            log.info("not told where it was pressed: %s", error.error)
        try:
            call("chat.postMessage", channel=self._slack_user, unfurl_links=False, unfurl_media=False, **said)
        except SlackFailed as error:
            log.warning("somebody in Slack could not be told what became of their click: %s", error.error)

    def _press(self, link: SlackLink, payload: Mapping[str, Any]) -> str:
        action = payload["actions"][0]
        pressed = Pressed.read(str(action.get("value")))
        if action.get("action_id") != pressed.verb.value:
            raise Invalid("slack.value", "This button is not one of jitaccess.")
        card = self._card(pressed, link)
        place, ts = _place(payload)
        if place != card.channel or (card.ts and ts != card.ts):
            raise Forbidden("slack.copy", "This is a copy. Decide on the message that jitaccess sent, or on the page.")
        if pressed.verb is Verb.APPROVE:
            return self._approve(pressed, link.user)
        return self._open(self._form(pressed, link.user), payload)

    def _card(self, pressed: Pressed, link: SlackLink) -> SlackCard:
        """The message of the button: of this request, and theirs if it is one person's."""
        card = SlackCard.objects.filter(pk=pressed.card, request=pressed.request).first()
        if card is None or card.user_id not in {None, link.user_id}:
            raise Forbidden("slack.copy", "This button was not made for you.")
        return card

    def _form(self, pressed: Pressed, user: User) -> kit.Block:
        request, _ = standing.seen_by(user, pressed.request)
        title = title_of(request)
        if pressed.verb is Verb.DENY:
            return modals.deny_form(pressed, title)
        if pressed.verb is Verb.CHANGES:
            return modals.changes_form(pressed, title)
        if pressed.verb is Verb.EXTEND:
            return modals.extend_form(pressed, title, asking.longer_by(request))
        return modals.less_form(pressed, title, choices_of(request), request)

    def _form_for_access(self, user: User, payload: Mapping[str, Any]) -> str:
        agents = list(agents_for(user).order_by("name")[: kit.OPTIONS])
        if not agents:
            raise Forbidden("request.not_your_agent", "There is no agent that you own or may use.")
        return self._open(modals.access_form(agents, self._where, url=checking.page_url(agents[0])), payload)

    def _open(self, view: kit.Block, payload: Mapping[str, Any]) -> str:
        try:
            call("views.open", trigger_id=_text(payload, "trigger_id"), view=view)
        except SlackFailed as error:
            if error.error in _TOO_LATE:
                return "That took too long for Slack. Please press it again."
            log.warning("Slack opened no form: %s", error.error)
            return f"Slack did not open the form. You can do it on {settings.PUBLIC_URL}/"
        return ""

    def _submit(self, pressed: Pressed, filled: modals.Filled, link: SlackLink) -> str:
        user, note = link.user, filled.text("reason")
        if pressed.verb is Verb.DENY:
            return self._deny(pressed, user, note)
        request, _ = standing.seen_by(user, pressed.request)
        if pressed.verb is Verb.CHANGES:
            ask_for_changes(request_id=pressed.request, approver=user, channel=CHANNEL, note=note, source=self._source)
            return "Asked. The agent is told."
        if pressed.verb is Verb.EXTEND:
            cards.tell_filer(asking.extend(filled, request, user, source=self._source), link)
            return ""
        return self._approve(pressed, user, filled.narrow(request, choices_of(request)))

    def _approve(self, pressed: Pressed, user: User, narrow: Narrow | None = None) -> str:
        seen = standing.look_at(user, pressed.request)
        if self._done(seen.request, user, DecisionVerdict.APPROVE):
            return "You have approved this already."
        if not may_approve_here(user, seen):
            raise Forbidden("decision.not_shown", "Slack cannot show all of this. Open it to approve it on its page.")
        decided = approve_request(
            request_id=pressed.request, approver=user, channel=CHANNEL, digest=pressed.digest, source=self._source,
            narrow=narrow,
        )  # fmt: skip
        return said_of(decided, now()) or _open_still(decided, "yes")

    def _deny(self, pressed: Pressed, user: User, note: str) -> str:
        request, _ = standing.seen_by(user, pressed.request)
        if self._done(request, user, DecisionVerdict.DENY):
            return "You have denied this already."
        decided = deny_request(
            request_id=pressed.request, approver=user, channel=CHANNEL, digest=pressed.digest, reason=note,
            source=self._source,
        )  # fmt: skip
        return said_of(decided, now()) or _open_still(decided, "no")

    def _done(self, request: AccessRequest, user: User, verdict: DecisionVerdict) -> bool:
        """Whether this click was heard before: a repetition, or one that was done when a process died."""
        before = selectors.live_decision_of(request, user)
        return before is not None and before.verdict == verdict and before.digest == request.digest


def _open_still(decided: AccessRequest, word: str) -> str:
    if decided.pending:
        return f"Your {word} counts. Others have to decide, too."
    return f"This request was {selectors.how_it_ended(decided)}."


def _confirmed(team: str, slack_user: str, word: str) -> str:
    try:
        user = confirm(team=team, slack_user=slack_user, word=word).user
    except JitAccessError as error:
        # Slack may hand a command on twice.
        known = link_of(team, slack_user)
        return f"{error.detail} You are linked to {known.user.username}." if known else error.detail
    return (
        f"Linked: you are {user.username} in jitaccess, and what you press here counts as theirs. If that is not you, "
        "type /access unlink at once."
    )


def _private(text: str) -> Mapping[str, Any]:
    return {"response_type": "ephemeral", "text": kit.escaped(text), "unfurl_links": False}


def _where(payload: Mapping[str, Any]) -> str:
    """The channel it was done in; of a form that is sent, the one it was opened in."""
    view = payload.get("view")
    if isinstance(view, dict) and view.get("callback_id") == modals.ACCESS:
        return modals.checked_of(payload)[0]
    return _text(payload, "channel_id") or _place(payload)[0]


def _place(payload: Mapping[str, Any]) -> tuple[str, str]:
    found = payload.get("container")
    container = found if isinstance(found, dict) else {}
    return _text(container, "channel_id"), _text(container, "message_ts")


def _text(payload: Mapping[str, Any], name: str) -> str:
    found = payload.get(name)
    return found if isinstance(found, str) else ""
