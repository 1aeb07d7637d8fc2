"""What an approval was narrowed to: shorter, fewer things, fewer calls. Never wider; the grant is what all agree on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical, digest
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Conflict, Invalid
from requests_app.models import AccessRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Seconds, calls (None: any number), and the labels of what is given (AccessRequest.tool_labels)."""

    seconds: int
    max_uses: int | None
    labels: tuple[str, ...]

    def text(self) -> str:
        """Canonical JSON."""
        return canonical({"seconds": self.seconds, "max_uses": self.max_uses, "labels": list(self.labels)}).decode()

    def digest(self) -> str:
        """What an approver agreed to, beyond the digest of the request."""
        return digest(strictjson.decode(self.text().encode()), domain="jitaccess-terms-v1")


def terms_of(request: AccessRequest) -> Terms:
    """All that was asked for."""
    return Terms(seconds=request.seconds, max_uses=request.max_uses, labels=tuple(request.tool_labels))


def narrowed(
    request: AccessRequest,
    *,
    seconds: int | None = None,
    max_uses: int | None = None,
    labels: Collection[str] | None = None,
) -> Terms:
    """The request's terms, made smaller. Raises Invalid for what would be wider, or nothing."""
    asked = terms_of(request)
    if seconds is not None and not 60 <= seconds <= asked.seconds:
        raise Invalid(
            "decision.terms", f"Give between 1 min and the {format_duration(asked.seconds)} that were asked for."
        )
    if max_uses is not None and not 1 <= max_uses <= (asked.max_uses or max_uses):
        raise Invalid("decision.terms", f"Give 1 to {asked.max_uses} calls: more were not asked for.")
    if labels is not None and len(set(asked.labels)) < len(asked.labels):
        # The name of an exact call has only the first digits of its digest: an agent can make two that are the same.
        raise Invalid("decision.terms", "Two things in this request have one name: approve all of them, or deny.")
    if labels is not None and (not labels or set(labels) - set(asked.labels)):
        raise Invalid("decision.terms", "Keep at least one thing that was asked for, and nothing that was not.")
    return Terms(
        seconds=seconds or asked.seconds,
        max_uses=max_uses or asked.max_uses,
        labels=asked.labels if labels is None else tuple(one for one in asked.labels if one in labels),
    )


def in_common(request: AccessRequest, many: Iterable[Terms]) -> Terms:
    """What all of them agree on. Raises Conflict when that is nothing."""
    terms = [terms_of(request), *many]
    uses = [one.max_uses for one in terms if one.max_uses is not None]
    labels = tuple(one for one in terms[0].labels if all(one in other.labels for other in terms))
    if not labels:
        raise Conflict(
            "decision.nothing_in_common", "The approvals have nothing in common; deny, or approve what others approved."
        )
    return Terms(seconds=min(one.seconds for one in terms), max_uses=min(uses, default=None), labels=labels)


def read_terms(text: str, request: AccessRequest) -> Terms:
    """Terms as they were stored with a decision. Raises Invalid for what `text` cannot mean."""
    value = strictjson.decode(text.encode())
    if not value:
        return terms_of(request)
    assert isinstance(value, dict)
    labels, uses = value["labels"], value["max_uses"]
    assert isinstance(labels, Sequence)
    kept = [str(one) for one in labels]
    return narrowed(
        request,
        seconds=int(str(value["seconds"])),
        max_uses=None if uses is None else int(str(uses)),
        labels=None if kept == request.tool_labels else kept,
    )
