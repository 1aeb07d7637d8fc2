"""For whom access is asked: an agent's token speaks for its own principal, a person for an agent of theirs."""

from __future__ import annotations

from jitaccess.api.caller import Caller
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import agents_for
from jitaccess.kernel.errors import Forbidden, Invalid
from requests_app.selectors import Grant

_FOREIGN = "You may ask for agents that you own or may use; this is none of them, or it is disabled."


def asking_for(caller: Caller, agent: str | None, *, for_me: bool) -> Principal:
    """Who will hold what is asked for. A person is taken from the session alone, never from the body.

    Raises Invalid for a token that names an agent, Forbidden for an agent that is not this person's.
    """
    if caller.person is None:
        if agent is not None or for_me:
            raise Invalid("request.agent", "A token speaks for its own agent: leave `agent` and `for_me` out.")
        return caller.principal
    if agent is None:
        raise Forbidden("request.not_an_agent", "Only agents hold access: name one of yours in `agent`.")
    found = agents_for(caller.person).filter(name=agent).first()
    if found is None:
        raise Forbidden("request.not_your_agent", _FOREIGN)
    own = caller.principal
    return Principal(
        agent=found.pk,
        agent_name=found.name,
        user=own.user if for_me else None,
        user_name=own.user_name if for_me else "",
        client=own.client,
        source=own.source,
    )


def holding(caller: Caller, grant: Grant) -> Principal:
    """As `asking_for`, about a grant that the caller sees: its principal. Not for what somebody else holds."""
    if caller.person is None:
        return caller.principal
    if grant.user_id not in (None, caller.person.pk):
        raise Forbidden("request.not_your_agent", "The agent holds this for somebody else, who can ask for more time.")
    return asking_for(caller, grant.agent.name, for_me=grant.user_id is not None)
