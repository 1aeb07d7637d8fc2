"""What is protected: MCP servers and their tools, pinned and classified."""
