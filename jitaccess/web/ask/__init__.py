"""Asking: new requests, and what one has."""
