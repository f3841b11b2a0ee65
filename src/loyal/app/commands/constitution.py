"""`loyal constitution`: a community's values as a file that is checked, compared and signed.

A FILE is a path, or the name of a constitution that comes with the package. Left out: the rules of
the lint and of versions (loyal.community), and whose signatures are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from loyal.app.key_files import FILE, KEY_OPTION, file_bytes, hex_id, signing_key
from loyal.app.out_files import require_unread
from loyal.app.report import Table
from loyal.app.terminal import Decorator, Terminal, command, facts
from loyal.community import Approvals, Constitution, Difference, Finding, constitution_file, lint
from loyal.community.difference import diff as difference_of
from loyal.encoding import atomic_write
from loyal.errors import ConfigError, UsageError
from loyal.signing import PublicKey

FORMS = {"toml": constitution_file.to_toml, "markdown": constitution_file.to_markdown}
FILE_ARGUMENT: Decorator = click.argument("file", metavar="FILE")


@command("list")
def listing(terminal: Terminal) -> int:
    """Name the constitutions that come with the package."""
    found = [_outline(constitution_file.bundled(one)) for one in constitution_file.bundled_names()]
    columns = ("name", "version", "values", "replies", "digest")
    rows = tuple(tuple(one[name] for name in columns) for one in found)
    terminal.result({"constitutions": found}, [Table("", columns, rows)])
    return 0


@command(
    "new",
    click.option(
        "--name",
        default="our-community",
        show_default=True,
        metavar="NAME",
        help="Its name: lower-case words with hyphens.",
    ),
    click.option(
        "--form",
        type=click.Choice(tuple(FORMS)),
        help="The form to write; by default by the end of --out, .md for Markdown, else TOML.",
    ),
    click.option("--out", type=FILE, metavar="FILE", help="Write it there and not to stdout."),
)
def new(terminal: Terminal, **options: Any) -> int:
    """Print a small constitution to begin with, or write it.

    It passes `loyal constitution check` as it is; replace its texts by yours.
    """
    out: Path | None = options["out"]
    markdown = out is not None and out.suffix.lower() in (".md", ".markdown")
    form = options["form"] or ("markdown" if markdown else "toml")
    made = constitution_file.template(options["name"])
    if out is not None:
        _require_absent(out)
    return _give(terminal, made, form, out)


@command(
    "check",
    FILE_ARGUMENT,
    click.option("--against", metavar="OLD", help="The version before it: checks its number too."),
)
def check(terminal: Terminal, **options: Any) -> int:
    """Say what is wrong with a constitution, and what to do.

    An error (exit code 1) means that no model can be trained or judged by it as it stands; a
    warning, that it will be worse than it could be. docs/constitution.md explains each rule.
    """
    one = read_constitution(options["file"])
    before = read_constitution(options["against"]) if options["against"] is not None else None
    found = lint.check(one, before)
    errors = _errors(found)
    fields = {
        **_outline(one),
        "errors": errors,
        "warnings": len(found) - errors,
        "findings": [asdict(finding) for finding in found],
    }
    terminal.result(fields, [facts(fields), *_finding_tables(found)])
    return 1 if errors else 0


@command(
    "show",
    FILE_ARGUMENT,
    click.option(
        "--form", type=click.Choice(tuple(FORMS)), help="Print the whole file in this form."
    ),
    click.option(
        "--out", type=FILE, metavar="FILE", help="Write what --form prints to a new file."
    ),
)
def show(terminal: Terminal, **options: Any) -> int:
    """Show a constitution and its digest, or print it in the other form."""
    out: Path | None = options["out"]
    if out is not None:
        require_unread(out, (options["file"],))
        _require_absent(out)
    one = read_constitution(options["file"])
    if options["form"] is not None:
        return _give(terminal, one, options["form"], out)
    if out is not None:
        raise UsageError("--out without --form has nothing to write", hint="add --form toml")
    columns = ("value", "weight bps", "keep", "break", "pairs", "statement")
    rows = tuple(
        (v.id, v.weight_bps, len(v.keeps), len(v.breaks), len(v.pairs), v.statement)
        for v in one.values
    )
    tables = [facts(_outline(one)), Table("Values", columns, rows)]
    lines = tuple((id or "all", line.rule, ", ".join(line.phrases)) for id, line in one.lines())
    if lines:
        tables.append(Table("Red lines", ("of", "rule", "crossed literally by"), lines))
    terminal.result({**_outline(one), "constitution": asdict(one)}, tables)
    return 0


@command("diff", click.argument("old", metavar="OLD"), click.argument("new", metavar="NEW"))
def diff(terminal: Terminal, **options: Any) -> int:
    """Show what changed between two versions, and what number that needs."""
    old, latest = read_constitution(options["old"]), read_constitution(options["new"])
    change = difference_of(old, latest)
    fields = {
        "name": latest.name,
        "from": old.version,
        "to": latest.version,
        "needs": change.needs,
        "has": change.has,
        "fits": change.fits,
        "reordered": change.reordered,
        "head": [asdict(one) for one in change.head],
        "values": [asdict(one) for one in change.values],
    }
    terminal.result(fields, [facts(fields), *_change_tables(change)])
    return 0


@command(
    "sign",
    FILE_ARGUMENT,
    KEY_OPTION,
    click.option(
        "--out",
        type=FILE,
        required=True,
        metavar="FILE",
        help="The file of signatures; others that it already holds stay in it.",
    ),
    click.option(
        "--join",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="Signatures of others to take over; may be repeated.",
    ),
)
def sign(terminal: Terminal, **options: Any) -> int:
    """Sign a constitution; several members may, into one file.

    One with errors in it is not signed: see `loyal constitution check`. Signatures under an earlier
    version do not hold for this one: write a new file.
    """
    one = read_constitution(options["file"])
    found = lint.check(one)
    if _errors(found):
        fields = {**_outline(one), "signed": False, "errors": _errors(found)}
        terminal.note("not signed: mend the errors first")
        terminal.result(fields, [facts(fields), *_finding_tables(found)])
        return 1
    key = signing_key(options["key"], "--key")
    out: Path = options["out"]
    approvals = Approvals()
    for path in (*options["join"], *((out,) if out.exists() else ())):
        approvals = approvals.joined(Approvals.from_bytes(file_bytes(path, "--out or --join")))
    approvals = approvals.signed_by(key, one)
    signers = approvals.verify(one)
    atomic_write(out, approvals.to_bytes())
    _show_signers(terminal, one, signers)
    return 0


@command(
    "verify",
    FILE_ARGUMENT,
    click.option(
        "--signature",
        type=FILE,
        required=True,
        multiple=True,
        metavar="FILE",
        help="A file of signatures; may be repeated.",
    ),
    click.option(
        "--signer",
        multiple=True,
        metavar="HEX",
        help="A public key that must be among them; may be repeated.",
    ),
)
def verify(terminal: Terminal, **options: Any) -> int:
    """Check who signed a constitution.

    Without --signer it says who signed, and not whether they are the right ones.
    """
    one = read_constitution(options["file"])
    wanted = [PublicKey(hex_id(text, "--signer")) for text in options["signer"]]
    approvals = Approvals()
    for path in options["signature"]:
        approvals = approvals.joined(Approvals.from_bytes(file_bytes(path, "--signature")))
    _show_signers(terminal, one, approvals.verify(one, wanted))
    return 0


def read_constitution(file: str) -> Constitution:
    """The constitution at a path, or the bundled one of that name where no such file is there."""
    if not Path(file).exists() and file in constitution_file.bundled_names():
        return constitution_file.bundled(file)
    return constitution_file.read(file)


def read_usable_constitution(file: str) -> Constitution:
    """The same, to train or to judge by: ConfigError where the lint finds an error in it."""
    one = read_constitution(file)
    wrong = [found for found in lint.check(one) if found.severity == "error"]
    if wrong:
        place = f" of {wrong[0].value}" if wrong[0].value else ""
        raise ConfigError(
            f"nothing can be trained or judged by {file}: {len(wrong)} error(s), the first is "
            f"{wrong[0].rule}{place}",
            hint=f"run 'loyal constitution check {file}', and mend them",
        )
    return one


def _require_absent(out: Path) -> None:
    """A constitution is written by people too, so none is ever replaced."""
    if out.exists():
        raise UsageError(f"{out} is there already", hint="name a file that is not there")


def _outline(one: Constitution) -> dict[str, Any]:
    return {
        "name": one.name,
        "version": one.version,
        "language": one.language,
        "values": len(one.values),
        "replies": sum(len(value.keeps) + len(value.breaks) for value in one.values),
        "digest": one.digest.hex(),
    }


def _give(terminal: Terminal, one: Constitution, form: str, out: Path | None) -> int:
    """A constitution's text to a file or to stdout; with --json, inside the one object."""
    text = FORMS[form](one)
    if out is not None:
        atomic_write(out, text.encode())
        terminal.result({**_outline(one), "form": form, "file": str(out)})
    elif terminal.json:
        terminal.result({**_outline(one), "form": form, "text": text})
    else:
        terminal.out.write(text)
    return 0


def _show_signers(terminal: Terminal, one: Constitution, signers: Sequence[PublicKey]) -> None:
    fields = {**_outline(one), "signers": [public.hex() for public in signers]}
    rows = tuple((public.hex(),) for public in signers)
    terminal.result(fields, [facts(fields), Table("Signed by", ("public key",), rows)])


def _errors(found: Sequence[Finding]) -> int:
    return sum(one.severity == "error" for one in found)


def _finding_tables(found: Sequence[Finding]) -> list[Table]:
    columns = ("severity", "rule", "value", "what", "next")
    rows = tuple((f.severity, f.rule, f.value or "all", f.what, f.next) for f in found)
    return [Table("Findings", columns, rows)] if rows else []


def _change_tables(change: Difference) -> list[Table]:
    moved = tuple(
        (one.id, one.kind, one.bump, one.weight_before, one.weight_after,
         f"{one.weight_after - one.weight_before:+d}")
        for one in change.values
    )  # fmt: skip
    rows = tuple(
        (id, one.field, one.bump, one.before, one.after)
        for id, fields in (("all", change.head), *((v.id, v.fields) for v in change.values))
        for one in fields
    )
    tables = []
    if moved:
        columns = ("value", "kind", "needs", "weight before", "after", "shift")
        tables.append(Table("Values", columns, moved))
    if rows:
        tables.append(Table("Fields", ("value", "field", "needs", "before", "after"), rows))
    return tables
