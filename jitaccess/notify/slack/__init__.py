"""Slack: cards, decisions and messages there."""
