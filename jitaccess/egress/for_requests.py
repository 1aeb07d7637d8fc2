"""A session of the library `requests` that reaches nothing but what egress does: allauth talks by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.blocking import fetch
from jitaccess.egress.errors import EgressFailed

SECONDS = 10.0
LIMIT = 1 << 20  # bytes: documents of a provider, and its keys
# What the client writes itself.
_ITS_OWN = frozenset({"host", "connection", "content-length", "accept-encoding", "transfer-encoding"})


def session(allowance: Callable[[], Allowance]) -> requests.Session:
    """Without the environment (proxies, ~/.netrc), without redirects, without cookies. `allowance` is asked each time.

    Its requests raise EgressRefused, and requests.ConnectionError or requests.Timeout for EgressFailed.
    """
    made = requests.Session()
    made.trust_env, made.max_redirects = False, 0
    for adapter in [*made.adapters]:
        made.adapters.pop(adapter)
    for scheme in ("https://", "http://"):
        made.mount(scheme, _Adapter(allowance))
    return made


class _Adapter(BaseAdapter):
    def __init__(self, allowance: Callable[[], Allowance]) -> None:
        super().__init__()
        self._allowance = allowance

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        headers = {name: str(value) for name, value in request.headers.items() if name.lower() not in _ITS_OWN}
        body = request.body.encode() if isinstance(request.body, str) else request.body
        assert body is None or isinstance(body, bytes)
        try:
            status, told, content = fetch(
                request.method or "GET", request.url or "", headers, body,
                seconds=SECONDS, allowance=self._allowance(), limit=LIMIT,
            )  # fmt: skip
        except EgressFailed as error:
            kind = requests.Timeout if error.code == "egress.timeout" else requests.ConnectionError
            raise kind(error.detail, request=request) from error
        answer = requests.Response()
        answer.status_code, answer.headers, answer.url = status, CaseInsensitiveDict(told), request.url or ""
        answer.request = request
        answer._content = content  # noqa: SLF001 - how an adapter hands over a body that is there already
        answer.encoding = requests.utils.get_encoding_from_headers(answer.headers)
        return answer

    def close(self) -> None:
        """There is nothing to close."""
