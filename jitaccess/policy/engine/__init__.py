"""The pure decision: no Django, no clock, no randomness."""
