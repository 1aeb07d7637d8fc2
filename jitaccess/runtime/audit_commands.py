"""`jitaccess audit …`: verify, prove, export, rotate the signing key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from jitaccess.audit import checkpoint, filed, proofs
from jitaccess.audit.verify import Finding, Report, check, read_export
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible
from jitaccess.runtime.progress import watched
from jitaccess.runtime.screen import Screen


def add(commands: Any) -> None:
    """Register the subcommands."""
    audit = commands.add_parser("audit", help="the ledger").add_subparsers(required=True, metavar="action")
    verify = audit.add_parser("verify", help="check every entry and every signed checkpoint, or a proof")
    instead = verify.add_mutually_exclusive_group()
    instead.add_argument("--export", type=Path, help="an export to check instead of the database; needs nothing else")
    instead.add_argument("--proof", type=Path, help="a document of `audit prove` to check; needs only public keys")
    verify.add_argument("--checkpoints", type=Path, help="a checkpoint or a folder of them that you hold")
    verify.add_argument("--json", action="store_true", help="one JSON document; not of a proof")
    verify.add_argument("--key", type=Path, help="a file of public keys (default: the folder's `keys`)")
    verify.set_defaults(run=_verify)
    prove = audit.add_parser("prove", help="a proof for others that an entry is in the ledger, or that it only grew")
    what = prove.add_mutually_exclusive_group(required=True)
    what.add_argument("entry", nargs="?", metavar="ENTRY_UID", help="the entry to prove")
    what.add_argument("--from", dest="size", type=int, metavar="SIZE", help="prove the growth from this many entries")
    prove.add_argument("--output", type=Path, help="a file (default: standard output)")
    prove.set_defaults(run=_prove)
    export = audit.add_parser("export", help="all entries in order, one JSON object a line")
    export.add_argument("--output", type=Path, help="a file (default: standard output)")
    export.set_defaults(run=_export)
    rotate = audit.add_parser("rotate-key", help="sign with a new key from now on, and with the last one too")
    rotate.set_defaults(run=_rotate)


def offline(arguments: argparse.Namespace) -> bool:
    """Whether a command works without an installation."""
    return arguments.run is _verify and bool(arguments.export or arguments.proof)


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.proof:
        return _verify_proof(arguments)
    report = _of_export(arguments) if arguments.export else _of_database(arguments)
    if arguments.json:
        return _as_json(report)
    for finding in report.findings:
        print(f"NOT INTACT: {visible(finding, limit=1000)}")
    if report.more:
        print(f"NOT INTACT: and {report.more} more findings")
    if report.findings:
        return 1
    print(f"Intact: {report.entries} entries, {_signed(report)}.")
    if not report.signed:
        print("No checkpoint was given, so this shows only that the entries agree with themselves.")
    elif not arguments.export and not filed.any_at(where := _where(arguments)):
        print(
            f"No checkpoint outside the database was found in {where}: "
            "whoever owns the database could have rewritten all of it."
        )
    return 0


def _as_json(report: Report) -> int:
    intact = not report.findings
    document = {"intact": intact, "entries": report.entries, "signed": report.signed}
    found = {"checkpoints": report.checkpoints, "findings": list(report.findings), "more_findings": report.more}
    Screen().json(document | found)
    return int(not intact)


def _signed(report: Report) -> str:
    if not report.signed:
        return "none of them signed"
    how_many = "all" if report.signed == report.entries else f"the first {report.signed}"
    return f"{how_many} of them signed by {report.checkpoints} checkpoint{'s' * (report.checkpoints != 1)}"


def _where(arguments: argparse.Namespace) -> Path:
    """Where checkpoints outside the database are."""
    from jitaccess.audit import heads

    return arguments.checkpoints or heads.folder()


def _verify_proof(arguments: argparse.Namespace) -> int:
    verifiers, held = _keys(arguments), []
    if arguments.checkpoints:
        for one in filed.read(filed.at(arguments.checkpoints), verifiers):
            if isinstance(one, Finding):
                raise Invalid("checkpoint.invalid", one.text)
            held.append(one)
        if not held:
            raise Invalid("checkpoint.invalid", f"There is no checkpoint in {arguments.checkpoints}.")
    try:
        print(f"Proven: {proofs.check(arguments.proof.read_bytes(), verifiers, held)}")
    except Invalid as error:
        print(f"NOT PROVEN: {visible(error.detail, limit=1000)}")
        return 1
    return 0


def _of_export(arguments: argparse.Namespace) -> Report:
    heads: Iterable[checkpoint.Checkpoint | Finding] = ()
    if arguments.checkpoints:
        heads = filed.read(filed.at(arguments.checkpoints), _keys(arguments))
    with arguments.export.open("rb") as lines:
        return check(watched(read_export(lines), "entries checked"), heads)


def _of_database(arguments: argparse.Namespace) -> Report:
    from jitaccess.audit import heads, stored
    from jitaccess.audit.models import Checkpoint, Leaf
    from jitaccess.store.reads import consistent_reads

    known = list(dict.fromkeys(heads.verifiers() + (_keys(arguments) if arguments.key else [])))
    where = _where(arguments)
    sources = filed.at(where) if arguments.checkpoints or where.exists() else []
    with consistent_reads():
        if not known and Checkpoint.objects.exists():
            raise Invalid(
                "checkpoint.key", "There is no key here to check checkpoints with: give public ones with --key."
            )
        total = Leaf.objects.count()
        report = stored.verified(known, sources, lambda rows: watched(rows, "entries checked", total))
    return replace(report, findings=(*report.findings, *heads.unknown_published()))


def _keys(arguments: argparse.Namespace) -> list[checkpoint.Verifier]:
    """The public keys that were given, or those beside the checkpoints that were."""
    where = arguments.checkpoints
    if not arguments.key and not where:
        raise Invalid("checkpoint.key", "Say with --key which public keys you trust.")
    keys = arguments.key or where / "keys"
    try:
        # What was named itself may be a pipe of the shell's; what lies in a folder may not.
        text = keys.read_text(encoding="utf-8") if arguments.key else filed.text(keys)
    except (OSError, UnicodeDecodeError, Invalid) as error:
        raise Invalid("checkpoint.key", f"Cannot read public keys from {keys}; say where with --key.") from error
    return checkpoint.parse_keys(text)


def _prove(arguments: argparse.Namespace) -> int:
    from jitaccess.audit.prove import prove_entry, prove_growth
    from jitaccess.store.reads import consistent_reads

    with consistent_reads():
        if arguments.size is not None:
            document = prove_growth(arguments.size)
        else:
            try:
                uid = UUID(arguments.entry)
            except ValueError:
                raise Invalid("entry.unknown", f"{arguments.entry!r} is not the uid of an entry.") from None
            document = prove_entry(uid)
    return _put_out(arguments.output, lambda file: int(not file.write(strictjson.encode(document) + b"\n")))


def _export(arguments: argparse.Namespace) -> int:
    from jitaccess.store.reads import consistent_reads

    with consistent_reads():
        return _put_out(arguments.output, _write_lines)


def _put_out(path: Path | None, write: Callable[[IO[bytes]], int]) -> int:
    try:
        target: Any = path.open("wb") if path else nullcontext(sys.stdout.buffer)
    except OSError as error:
        raise Invalid("export.output", f"Cannot write {path}: {error.strerror}.") from error
    with target as file:
        return write(file)


def _write_lines(file: IO[bytes]) -> int:
    """1 when a row could not be read: it is left out, and said so."""
    from jitaccess.audit.models import Leaf
    from jitaccess.audit.stored import rows

    damaged = False
    for row in watched(rows(), "entries written", Leaf.objects.count()):
        if isinstance(row, Finding):
            damaged = True
            print(f"jitaccess: left out: {visible(row.text, limit=1000)}", file=sys.stderr)
        elif row.entry is not None:
            file.write(strictjson.encode({"seq": row.seq, "entry": row.entry}) + b"\n")
    return int(damaged)


def _rotate(_: argparse.Namespace) -> int:
    from jitaccess.audit import heads

    print(f"{heads.rotate().text}")
    print("Give this public key to whoever verifies. Checkpoints are signed by both keys from now on.", file=sys.stderr)
    return 0
