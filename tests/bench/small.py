"""Every measurement with small numbers on one installation: python -m tests.bench.small DATABASE OUT.

OUT gets what each reported, as JSON by scenario.
"""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.place import choose, place

# Those that start their own processes come last.
SCENARIOS: dict[str, dict[str, Any]] = {
    "capacity": {"seconds": 0.3, "rounds": 1, "sessions": "1,40"},
    "lists": {"seconds": 0.2, "sessions": "2", "tools": "10,100", "small": 1, "large": 0},
    "streams": {"streams": 40, "changes": 2, "seconds": 0.2, "small": 1},
    "latency": {"trials": 3, "small": 1},
    "profile": {"seconds": 0.7, "sessions": "1,8"},
    "startup": {"repeat": 1},
    "gateway": {
        "seconds": 0.2,
        "rounds": 1,
        "sessions": "1,4",
        "peers": "passthrough",
        "peer_seconds": 0.2,
        "peers_cache": "",
        "twin": 0,
        "small": 1,
    },
    "workflow_scale": {"requests": 1000, "due": 120, "looks": 1, "small": 1},
    "functions": {"calls": 8, "sessions": 4},
}


def main() -> None:
    database, out = sys.argv[1:]
    choose(database)
    SCENARIOS["startup"]["commands"] = "up" if database == "sqlite" else "gateway"
    told = {}
    from bench.world import SMALL, build

    with place() as here:
        build(SMALL)
        here.start(gateways=2)
        for name, options in SCENARIOS.items():
            if name in {"profile", "startup", "gateway", "workflow_scale", "functions"}:
                here.stop()
            report = importlib.import_module(f"bench.scenarios.{name}").run(here, Namespace(**options))
            told[name] = {
                "figures": report.figures, "violations": report.violations, "tables": report.tables,
            }  # fmt: skip
    Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
