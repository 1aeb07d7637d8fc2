"""FastMCP's proxy as its documentation shows it; run with the interpreter of the environment that it is installed in.

python fastmcp_proxy.py UPSTREAM PORT plain|shared
"""

import asyncio
import sys
from typing import Any

from fastmcp import Client  # type: ignore[import-not-found]
from fastmcp.server import create_proxy  # type: ignore[import-not-found]


async def main(upstream: str, port: int, *, shared: bool) -> None:
    options: dict[str, Any] = {
        "transport": "http", "host": "127.0.0.1", "port": port, "stateless_http": True, "json_response": True,
        "show_banner": False, "log_level": "ERROR", "uvicorn_config": {"access_log": False},
    }  # fmt: skip
    if not shared:
        await create_proxy(upstream).run_async(**options)
        return
    async with Client(upstream) as client:
        await create_proxy(client).run_async(**options)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), shared=sys.argv[3] == "shared"))
