from __future__ import annotations

from tests.e2e.conftest import cold, first_start, installation

__all__ = ["cold", "first_start", "installation"]
