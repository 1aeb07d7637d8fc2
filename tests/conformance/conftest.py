from __future__ import annotations

from tests.e2e.conftest import first_start, installation

__all__ = ["first_start", "installation"]
