"""The workflow on a real database, held against a small model of it, step by step, in random orders."""
