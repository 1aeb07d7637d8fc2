"""REST API v1: the same services as every other interface, for people in sessions and agents with tokens."""
