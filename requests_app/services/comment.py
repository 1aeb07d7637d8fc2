"""A person's remark on a request: decides nothing, and stays in the ledger with everything else about it."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Facts, record
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.kernel.text import is_blank, visible
from requests_app import selectors, standing

MAX_COMMENT = 2000
MAX_COMMENTS = 100  # of one person on one request: they stay for good, and a timeline shows all of them


def comment_on_request(*, request_id: UUID, author: User, text: str, channel: str, source: str = "") -> UUID:
    """Put a comment on record; returns the uid of its entry, which is all there is of it.

    Raises NotFound for a request that the author may not see, Invalid for a comment that is blank or too long,
    Conflict for one too many.
    """
    if is_blank(text):
        raise Invalid("comment.text", "A comment needs a text.")
    # Measured as it will be shown, as reasons are.
    shown = visible(text.strip(), limit=MAX_COMMENT * 20, multiline=True)
    if len(shown) > MAX_COMMENT:
        raise Invalid("comment.text", f"The comment has {len(shown)} characters as shown; at most {MAX_COMMENT} are.")
    with transaction.atomic():
        author.refresh_from_db(fields=["is_active"])
        request, _ = standing.seen_by(author, request_id)
        if selectors.comments_by(author, request) >= MAX_COMMENTS:
            raise Conflict("comment.too_many", f"You have made {MAX_COMMENTS} comments on this request already.")
        actor = Principal.of_user(author, source=source, client=channel).actor()
        return record(Facts(event=Event.REQUEST_COMMENTED, actor=actor, request=request.pk, data={"text": shown}))
