"""python -m tests.conformance: run, compare, print a report. Exit code 1 unless nothing differs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.conformance.behind import prepared_here
from tests.conformance.comparing import BRIDGED, WAYS, compare_all
from tests.conformance.report import as_markdown, as_text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--keep", type=Path, help="keep what the suite wrote in this folder")
    parser.add_argument("--page", type=Path, help="write the report as a page of the documentation, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jitaccess-conformance-") as name:
        folder = options.keep or Path(name)
        outcome = asyncio.run(compare_all(prepared_here(Path(name) / "var"), folder, WAYS + BRIDGED))
    print(as_text(outcome))
    if options.page:
        options.page.write_text(as_markdown(outcome))
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
