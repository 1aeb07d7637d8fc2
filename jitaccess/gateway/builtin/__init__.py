"""The access tools: how an agent asks, waits, looks and gives back. None of them approves."""
