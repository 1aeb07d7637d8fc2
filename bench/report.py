"""What a run has to say: tables, figures for tests, violations; and on what machine it was said."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(slots=True)
class Report:
    """The outcome of one scenario on one database.

    A violation is a broken guarantee, in a sentence; a goal is about speed, which a busy machine may miss.
    """

    scenario: str
    database: str
    tables: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    goals_missed: list[str] = field(default_factory=list)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        self.tables.append(markdown_table(head, rows))

    def compared(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table that is to stand beside that of the other database, row by row."""
        kept = self.figures["compared"] = [list(head), *map(list, rows)]
        self.table(kept[0], kept[1:])

    def check(self, good: bool, sentence: str) -> None:
        """Note a violation unless `good`."""
        if not good:
            self.violations.append(sentence)

    def goal(self, good: bool, sentence: str) -> None:
        """Note a goal that was missed unless `good`."""
        if not good:
            self.goals_missed.append(sentence)

    def markdown(self) -> str:
        parts = [f"## {self.scenario} on {self.database}", *self.tables, f"Violations: {len(self.violations)}"]
        listed = [*self.violations[:50], *(f"goal missed: {one}" for one in self.goals_missed)]
        return "\n\n".join(parts) + "".join(f"\n- {one}" for one in listed)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_shown, line)) + " |" for line in lines)


def side_by_side(scenario: str, told: dict[str, dict[str, Any]]) -> str:
    """The tables of several databases as one; rows that begin alike stand together. "" when there is one, or none."""
    tables = {database: figures["compared"] for database, figures in told.items() if "compared" in figures}
    if len(tables) < 2:
        return ""
    head = next(iter(tables.values()))[0]
    order = list(dict.fromkeys(row[0] for table in tables.values() for row in table[1:]))
    rows = [["in the run on", *head]]
    for first in order:
        rows += [[name, *row] for name, table in tables.items() for row in table[1:] if row[0] == first]
    return f"## {scenario}, {' and '.join(tables)}\n\n{markdown_table(rows[0], rows[1:])}\n"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 1 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def quantiles(seconds: Iterable[float]) -> list[float]:
    """p50, p95, p99 and the longest, in milliseconds; zeros when there is nothing."""
    found = sorted(seconds) or [0.0]
    last = len(found) - 1
    return [1000 * found[min(last, round(last * share))] for share in (0.5, 0.95, 0.99, 1.0)]


QUANTILES = ("p50 ms", "p95 ms", "p99 ms", "max ms")


def machine(database: str) -> str:
    """Commit, command, processor, Python and `database`, as a Markdown list."""
    commit = _output("git", "rev-parse", "--short", "HEAD")
    changed = " with changes" if _output("git", "status", "--porcelain", "--untracked-files=no") else ""
    lines = {
        "commit": commit + changed,
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.1f} in the last minute, this run in it",
        "python": platform.python_version(),
        "database": database,
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())


def publish(path: Path, report: Report, about: str) -> None:
    """Put tables and circumstances between the marks that the page has for this scenario and database.

    The marks are `<!-- bench: gateway postgresql -->` and the next `<!-- end -->`. Raises SystemExit without them.
    """
    mark, end = f"<!-- bench: {report.scenario} {report.database.lower()} -->", "<!-- end -->"
    before, found, rest = path.read_text().partition(mark)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{path} has no place for this: {mark} … {end}")
    missed = [f"- goal missed: {one}" for one in report.goals_missed]
    parts = [about, *report.tables, f"Violations: {len(report.violations)}.", *(["\n".join(missed)] if missed else [])]
    path.write_text("\n\n".join([before + mark, *parts, end]) + after)


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
