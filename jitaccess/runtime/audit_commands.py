"""`jitaccess audit …`: verify, export, rotate the signing key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from jitaccess.audit import checkpoint
from jitaccess.audit.verify import Report, check, read_export
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid


def add(commands: Any) -> None:
    """Register the subcommands."""
    audit = commands.add_parser("audit", help="the ledger").add_subparsers(required=True, metavar="action")
    verify = audit.add_parser("verify", help="check every entry and every signed checkpoint")
    verify.add_argument("--export", type=Path, help="an export to check instead of the database; needs nothing else")
    verify.add_argument("--checkpoints", type=Path, help="a checkpoint or a folder of them (default: our own)")
    verify.add_argument("--key", type=Path, help="a file of public keys (default: the folder's `keys`)")
    verify.set_defaults(run=_verify)
    export = audit.add_parser("export", help="all entries in order, one JSON object a line")
    export.add_argument("--output", type=Path, help="a file (default: standard output)")
    export.set_defaults(run=_export)
    rotate = audit.add_parser("rotate-key", help="sign with a new key from now on, and with the last one too")
    rotate.set_defaults(run=_rotate)


def offline(arguments: argparse.Namespace) -> bool:
    """Whether a command works without an installation."""
    return getattr(arguments, "export", None) is not None and arguments.run is _verify


def _verify(arguments: argparse.Namespace) -> int:
    report = _of_export(arguments) if arguments.export else _of_database(arguments)
    for finding in report.findings:
        print(f"NOT INTACT: {finding}")
    if report.findings:
        return 1
    print(f"Intact: {report.entries} entries, {report.checkpoints} signed checkpoints.")
    if not report.checkpoints:
        print("No checkpoint was given, so this shows only that the entries agree with themselves.")
    return 0


def _of_export(arguments: argparse.Namespace) -> Report:
    heads: list[checkpoint.Checkpoint] = []
    if arguments.checkpoints:
        keys = arguments.key or arguments.checkpoints / "keys"
        heads = _heads(arguments.checkpoints, keys)
    with arguments.export.open(encoding="utf-8") as lines:
        return check(read_export(lines), heads)


def _of_database(arguments: argparse.Namespace) -> Report:
    from jitaccess.audit import heads as own
    from jitaccess.audit import log
    from jitaccess.audit.models import Checkpoint, Entry, Unsequenced
    from jitaccess.store.clock import now
    from jitaccess.store.reads import consistent_reads

    with consistent_reads():
        signed = [checkpoint.read(note, own.verifiers()) for note in Checkpoint.objects.values_list("note", flat=True)]
        if arguments.checkpoints:
            verifiers = _keys(arguments.key) if arguments.key else own.verifiers()
            signed += _heads_with(arguments.checkpoints, verifiers)
        else:
            signed += [own.read_copy(path) for path in own.copies()]
        try:
            report = check(_rows(), signed)
        except (ValueError, TypeError, AttributeError) as error:
            return Report(0, len(signed), (f"a row of the ledger cannot even be read: {error}",))
        findings = [*report.findings, *log.damaged_nodes()]
        queued = Unsequenced.objects.values("entry_id")
        lost = Entry.objects.filter(leaf=None).exclude(pk__in=queued).count()
        if lost:
            findings.append(f"{lost} entries were never given a place")
        late = Unsequenced.objects.filter(entry__at__lt=now()).count()
        if late > 10_000:
            findings.append(f"{late} entries wait for their place: is a web process running?")
    return Report(report.entries, report.checkpoints, tuple(findings))


def _heads(where: Path, keys: Path) -> list[checkpoint.Checkpoint]:
    return _heads_with(where, _keys(keys))


def _keys(keys: Path) -> list[checkpoint.Verifier]:
    try:
        text = keys.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("checkpoint.key", f"Cannot read public keys from {keys}; say where with --key.") from error
    return [checkpoint.Verifier.parse(line) for line in text.splitlines() if line.strip()]


def _heads_with(where: Path, verifiers: list[checkpoint.Verifier]) -> list[checkpoint.Checkpoint]:
    if not where.exists():
        raise Invalid("checkpoint.invalid", f"There is no checkpoint at {where}.")
    files = [where] if where.is_file() else sorted(path for path in where.glob("[0-9l]*") if path.is_file())
    heads = []
    for path in files:
        try:
            heads.append(checkpoint.read(path.read_text(encoding="utf-8"), verifiers))
        except (Invalid, OSError, UnicodeDecodeError) as error:
            raise Invalid("checkpoint.invalid", f"{path}: {error}") from error
    return heads


def _rows() -> Iterator[tuple[int, dict[str, strictjson.Json], str | None]]:
    from jitaccess.audit.models import Leaf
    from jitaccess.audit.sequencer import plain

    for leaf in Leaf.objects.select_related("entry").order_by("seq").iterator(chunk_size=2000):
        yield leaf.seq, dict(plain(leaf.entry)), leaf.leaf_hash


def _export(arguments: argparse.Namespace) -> int:
    from jitaccess.store.reads import consistent_reads

    try:
        target: Any = arguments.output.open("wb") if arguments.output else nullcontext(sys.stdout.buffer)
    except OSError as error:
        raise Invalid("export.output", f"Cannot write {arguments.output}: {error.strerror}.") from error
    with consistent_reads(), target as file:
        _write_lines(file)
    return 0


def _write_lines(file: IO[bytes]) -> None:
    for seq, entry, _ in _rows():
        file.write(strictjson.encode({"seq": seq, "entry": entry}) + b"\n")


def _rotate(_: argparse.Namespace) -> int:
    from jitaccess.audit import heads

    print(f"{heads.rotate().text}")
    print("Give this public key to whoever verifies. Checkpoints are signed by both keys from now on.", file=sys.stderr)
    return 0
