"""The problem types of the Access Request and Approval Profile ("Error Responses")."""

from __future__ import annotations

from typing import ClassVar

from jitaccess.kernel.errors import JitAccessError


class ProfileProblem(JitAccessError):
    """A refusal with a type that the profile defines; `code` of ours besides it."""

    name: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(f"authzen.{self.name}", detail)

    def __reduce__(self) -> tuple[type[ProfileProblem], tuple[str]]:
        return type(self), (self.detail,)

    @property
    def type(self) -> str:
        return f"urn:openid:authzen:access-request:error:{self.name}"


class NotRequestable(ProfileProblem):
    name, http_status = "not_requestable", 400


class ExpiredDenial(ProfileProblem):
    name, http_status = "expired_denial", 410


class InvalidBinding(ProfileProblem):
    name, http_status = "invalid_denial_binding", 400


class DuplicateRequest(ProfileProblem):
    name, http_status = "duplicate_request", 409


class UnknownTask(ProfileProblem):
    name, http_status = "unknown_task", 404


class InvalidTaskState(ProfileProblem):
    name, http_status = "invalid_task_state", 409
