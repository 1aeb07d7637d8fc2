"""Headers that an operator may configure for requests of ours: how names and values look, and which are ours alone."""

from __future__ import annotations

import re

# RFC 9110 section 5.1: a token.
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
# Narrower than RFC 9110 section 5.5, so that no value can end a line or a header.
VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,8190}[\x21-\x7e])?")
# They say where a message ends, what the connection does (RFC 9110 section 7.6.1), what MCP is told by it, who calls.
OURS = re.compile(
    r"host|origin|content-.*|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|accept.*|mcp-.*"
    r"|last-event-id|proxy-.*|x-jitaccess-.*",
    re.IGNORECASE,
)
