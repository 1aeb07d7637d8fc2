"""The MCP data plane: pure ASGI, both protocol eras."""
