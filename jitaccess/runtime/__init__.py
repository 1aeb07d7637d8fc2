"""Composition: the ASGI switch, embedded worker and beat, the command line."""
