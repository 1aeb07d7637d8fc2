"""One module a scenario: `run(place, options)` does it, `OPTIONS` says what can be chosen."""
