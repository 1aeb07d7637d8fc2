"""What every address of the API has in common."""

from __future__ import annotations

from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jitaccess.api import throttles
from jitaccess.api.caller import Caller


class Endpoint(APIView):
    """Counted by address before anything is looked up, by principal once it is known, and never cached.

    `people_only`: the methods that no agent's token can use, refused before anything about the request is read.
    `reads`: whatever the method, nothing is changed, which counts for less.
    """

    people_only: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[bool] = False

    def prepare(self, request: Request) -> None:
        """What has to be read before the transaction of a POST begins."""

    def still_theirs(self, caller: Caller, answer: Any) -> None:
        """Raise unless the caller may be told today what a stored `answer` says: rights are lost meanwhile."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        address = str(request.META.get("REMOTE_ADDR", ""))
        throttles.spend(request, f"@{address}", times=throttles.PER_ADDRESS, reads=self.reads)
        super().initial(request, *args, **kwargs)
        if isinstance(request.user, Caller):
            throttles.spend(request, request.user.principal.key, reads=self.reads)
            if request.method in self.people_only:
                request.user.decider()

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response.headers.setdefault("Cache-Control", "no-store")
        return super().finalize_response(request, response, *args, **kwargs)


def caller_of(request: Request) -> Caller:
    """Who calls. Only where authentication is insisted on, which is everywhere but the documentation."""
    caller: object = request.user
    assert isinstance(caller, Caller)
    return caller


__all__ = ["Caller", "Endpoint", "Request", "Response", "caller_of"]
