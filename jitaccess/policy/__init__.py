"""Roles, bindings and what may be asked for; engine/ decides, compiler.py turns rows into a Snapshot."""
