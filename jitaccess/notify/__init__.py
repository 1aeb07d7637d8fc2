"""Telling people: reads the ledger, one module per channel."""
