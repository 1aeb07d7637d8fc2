"""Webhooks: every event to endpoints of others, signed as Standard Webhooks 1.0 says."""
