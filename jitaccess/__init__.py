"""jitaccess: an identity-aware MCP gateway with a request desk behind it."""
