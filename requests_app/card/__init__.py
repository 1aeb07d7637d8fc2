"""The decision card: what a person reads of a request before deciding, the same in every channel."""
