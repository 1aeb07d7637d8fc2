"""Deciding and recording: the queue of calls, their batch, their ends, and what dead processes left open."""
