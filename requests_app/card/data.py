"""The card as JSON: the member "card" of a request in the REST API."""

from __future__ import annotations

from datetime import datetime

from jitaccess.kernel.strictjson import Json, JsonObject
from requests_app.card.adds import Adds, Reach
from requests_app.card.card import Card, LengthLine, ProgressLine, WhyLine
from requests_app.card.effects import Effect, Effects
from requests_app.card.items import Block
from requests_app.card.shown import Shown
from requests_app.card.usage import Used


def card_data(card: Card) -> JsonObject:
    """Every line of it, in its order; moments in ISO 8601, texts inert."""
    who = card.who
    return {
        "title": card.title,
        "status": {"label": card.status.label, "tone": card.status.tone, "live": card.status.live},
        "who": {
            "agent": who.agent,
            "on_behalf_of": who.on_behalf_of or None,
            "owner": who.owner,
            "team": who.team,
            "client": who.client,
            "issued_by": who.issued_by or None,
            "filed_by": who.filed_by or None,
            "description": who.description,
            "enabled": who.enabled,
        },
        "risk": card.risk,
        "things": [_block(one) for one in card.blocks],
        "adds": _adds(card.adds) if card.adds else None,
        "length": _length(card.length),
        "unusual": {
            "sentence": card.unusual.sentence,
            "first_time": card.unusual.first_time,
            "before": [
                {"label": one.label, "asked": one.asked, "ended": dict(one.ended)} for one in card.unusual.before
            ],
            "use": card.unusual.use,
            "used": [_used(one) for one in card.unusual.used],
        },
        "why": _why(card.why),
        "progress": _progress(card.progress),
        "effects": _effects(card.effects),
        "incomplete": card.incomplete,
    }


def _block(block: Block) -> JsonObject:
    return {
        "kind": block.kind,
        "where": block.where,
        "things": [
            {
                "label": one.label,
                "name": one.name,
                "access": one.access,
                "description": one.rest or one.description,
                "obstacle": one.obstacle,
            }
            for one in block.things
        ],
        "arguments": _shown(block.arguments),
        "privileges": block.privileges,
        "version": block.version or None,
        "document": block.document,
    }


def _adds(adds: Adds) -> JsonObject:
    return {
        "new": [_reach(one) for one in adds.new],
        "already": [_reach(one) for one in adds.already],
        "blocked": [_reach(one) for one in adds.blocked],
        "conditional": adds.conditional,
        "unknown": adds.unknown,
    }


def _used(used: Used) -> JsonObject:
    return {
        "label": used.label,
        "calls": used.calls,
        "last": _moment(used.last),
        "tools_used": used.tools,
        "tools": used.of,
    }


def _reach(reach: Reach) -> JsonObject:
    return {
        "server": reach.server,
        "tool": reach.tool,
        "access": reach.access,
        "how": reach.how,
        "label": reach.label,
        "until": _moment(reach.until),
    }


def _length(length: LengthLine) -> JsonObject:
    return {
        "seconds": length.seconds,
        "max_uses": length.max_uses,
        "each": length.each,
        "starts_at": _moment(length.starts_at),
        "not_after": _moment(length.not_after),
        "old_end": _moment(length.old_end),
        "new_end": _moment(length.new_end),
    }


def _why(why: WhyLine) -> JsonObject:
    changes = why.changes
    return {
        "text": why.text,
        "written_by": why.written_by,
        "ticket": why.ticket,
        "context": _shown(why.context),
        "changes": {"by": changes.by, "at": _moment(changes.at), "note": changes.note} if changes else None,
    }


def _progress(progress: ProgressLine) -> JsonObject:
    return {
        "stages": [
            {
                "number": stage.number,
                "state": stage.state,
                "groups": [
                    {
                        "name": group.name,
                        "quorum": group.quorum,
                        "missing": group.missing,
                        "approved": list[Json](group.approved),
                        "can": list[Json](group.can),
                        "away": list[Json](group.away),
                        "escalated": group.escalated,
                    }
                    for group in stage.groups
                ],
            }
            for stage in progress.stages
        ],
        "escalations": [{"at": _moment(one.at), "groups": list[Json](one.groups)} for one in progress.escalations],
        "open_until": _moment(progress.open_until),
        "ending": progress.ending,
        "policy": progress.policy,
        "version": progress.version,
        "rule": progress.rule,
        "auto": progress.auto,
    }


def _effects(effects: Effects) -> JsonObject:
    less = effects.less
    return {
        "approve": _effect(effects.approve),
        "deny": _effect(effects.deny),
        "revoke": _effect(effects.revoke),
        "changes": effects.changes,
        "less": {
            "seconds": list[Json](less.seconds),
            "max_uses": less.most_uses,
            "labels": list[Json](less.labels),
        }
        if less
        else None,
        "why_not": effects.why_not,
        "no_approval": effects.no_approval,
        "seat": effects.seat,
        "open_instead": effects.open_instead,
    }


def _effect(effect: Effect | None) -> JsonObject | None:
    if effect is None:
        return None
    return {"label": effect.label, "sentence": effect.sentence, "step_up": effect.step_up, "digest": effect.digest}


def _shown(value: Shown | None) -> JsonObject | None:
    return {"text": value.text, "whole": value.whole, "hidden": list[Json](value.hidden)} if value else None


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
