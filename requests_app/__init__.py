"""The request workflow: an agent or a person asks, people decide, a grant lives and ends."""
