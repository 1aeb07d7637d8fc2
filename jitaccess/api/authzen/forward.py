"""Forward-auth: a web server asks with the headers of a request, and gets 200, 401 or 403 (nginx `auth_request`).

What is asked about comes from the web server, never from who sends the request: where the operator's file maps
locations, X-Jitaccess-Tool is not read, and without locations X-Original-URI is not.
"""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.response import Response

from jitaccess.api.authzen import shapes
from jitaccess.api.authzen.asking import Asking, about, asking
from jitaccess.api.authzen.deciding import enforced, shown_reason
from jitaccess.api.authzen.endpoint import AuthZen
from jitaccess.api.authzen.vocabulary import Target
from jitaccess.api.endpoint import Request, caller_of
from jitaccess.api.schema import documented
from jitaccess.kernel.errors import Forbidden
from jitaccess.policy.engine.decide import Who

TOOL, METHOD, URI = "X-Jitaccess-Tool", "X-Original-Method", "X-Original-URI"
REASON = "X-Jitaccess-Reason"


def _header(name: str, text: str) -> OpenApiParameter:
    return OpenApiParameter(name, OpenApiTypes.STR, OpenApiParameter.HEADER, description=text)


class ForwardAuthView(AuthZen):
    reads: ClassVar[bool] = True

    @documented(
        "authzen_forward_auth",
        "Whether a web server may let a request through",
        "200 lets it through, and takes a use of a grant for a number of calls; 401 and 403 do not.",
        tag="authzen",
        answer=shapes.AnyObject,
        headers=[
            _header(TOOL, "`server/tool`, set by the web server."),
            _header(METHOD, "The method of the request, where locations are mapped."),
            _header(URI, "Its URI as it came, likewise."),
        ],
    )
    def get(self, request: Request) -> Response:
        first = asking(caller_of(request))
        target = _target(first, request)
        who = _who(first)
        now = about(first, [who])
        verdict = enforced(now, who, target, client=now.caller.principal)
        if not verdict.allowed:
            raise Forbidden(shown_reason(verdict), "This call is not allowed now.")
        agent = now.snapshot.agents[who.agent]
        return Response({}, headers={REASON: "allowed", "X-Jitaccess-Agent": agent.name})

    def handle_exception(self, exc: Exception) -> Response:
        """Every refusal is 401 or 403: nginx makes an error page of its own of anything else (auth_request)."""
        response = super().handle_exception(exc)
        data: Any = response.data
        response.headers[REASON] = str(data["code"])
        if response.status_code < 500 and response.status_code not in {401, 405}:
            response.status_code = data["status"] = 403
        return response


def _target(asking: Asking, request: Request) -> Target:
    if asking.vocabulary.locations:
        found = asking.vocabulary.located(request.headers.get(METHOD, ""), request.headers.get(URI, ""))
        if found is None:
            raise Forbidden("authzen.no_location", "No location of the operator's file speaks of this request.")
        return found
    server, slash, tool = request.headers.get(TOOL, "").partition("/")
    if not slash:
        raise Forbidden("authzen.no_tool", f"The web server did not say which tool this is ({TOOL}: server/tool).")
    return Target(server, tool, {})


def _who(asking: Asking) -> Who:
    """The caller; a person acts through the agent that the operator's file names for people."""
    if asking.own is not None:
        return asking.own
    agent = asking.through()
    user = asking.caller.principal.user
    if agent is None or user is None:
        raise Forbidden("authzen.not_an_agent", "People call through an agent, and the operator named none for them.")
    return Who(agent, user)
