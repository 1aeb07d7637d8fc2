"""A person's browser without JavaScript: pages are fetched, forms on them filled in and sent, cookies kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx2

from jitaccess.kernel.errors import NotFound

_BLOCKS = frozenset({"p", "h1", "h2", "blockquote"})


@dataclass(slots=True)
class Form:
    """Where a form is sent, and its hidden fields."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """What a reader finds on a page: its status, forms, and blocks of text with the class they are marked with."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__()
        self.status, self.url = response.status_code, str(response.url)
        self.forms: list[Form] = []
        self.blocks: list[tuple[str, str]] = []
        self._open: list[str] | None = None
        self.feed(response.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action") or self.url))
        elif tag == "input" and self.forms and given.get("type") == "hidden":
            self.forms[-1].fields[given.get("name", "")] = given.get("value", "")
        elif tag in _BLOCKS or given.get("role") == "alert":
            self.blocks.append((given.get("role") or given.get("class") or tag, ""))
            self._open = []

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append(data)

    def handle_endtag(self, tag: str) -> None:
        if self._open is not None and (tag in _BLOCKS or tag == "div"):
            kind, _ = self.blocks.pop()
            self.blocks.append((kind, " ".join("".join(self._open).split())))
            self._open = None

    def texts(self, kind: str = "") -> Iterator[str]:
        """The blocks of this kind, or all of them, in order."""
        return (text for found, text in self.blocks if text and kind in {"", found})

    def form(self, ending: str) -> Form | None:
        """The form that is sent to an address with this ending."""
        return next((form for form in self.forms if form.action.rstrip("/").endswith(ending)), None)


class Browser:
    """One person's. Nothing of the environment (proxies) is used: the pages are on this machine."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.AsyncClient(base_url=url, follow_redirects=True, timeout=20, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def open(self, address: str) -> Page:
        return Page(await self._http.get(address))

    async def send(self, page: Page, ending: str, **fields: str) -> Page:
        """Fill in and send the form whose address ends so. Raises NotFound when the page has none."""
        form = page.form(ending)
        if form is None:
            raise NotFound("form.missing", f"The page {page.url} (HTTP {page.status}) has no form to {ending}.")
        return await self.post(page, form.action, form.fields | fields)

    async def post(self, page: Page, address: str, fields: dict[str, str]) -> Page:
        return Page(await self._http.post(address, data=fields, headers={"referer": page.url}))
