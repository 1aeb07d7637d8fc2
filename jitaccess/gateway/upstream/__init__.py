"""A small asyncio client to MCP servers over stdio: raw JSON objects, both protocol eras."""
