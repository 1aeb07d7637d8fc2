"""The project's own benchmarks: real installations under load, every answer checked. See README.md."""
