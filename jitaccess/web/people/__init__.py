"""Agents and grants."""
