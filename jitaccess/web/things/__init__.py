"""Servers, the simulator and locks."""
