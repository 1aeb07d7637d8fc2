"""jitaccess: an identity-aware MCP gateway with a request desk behind it."""

__version__ = "0.1.0"
