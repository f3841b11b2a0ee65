"""`loyal fingerprint deal | trace`: a host's part of a tracing set, and who mixed such parts.

`deal` writes what host number H carries into a vault of its own, for whoever injects it. `trace`
asks a model, or reads what one answered, and names hosts. Left out: the code and the statistics
(loyal.fingerprints.codes, trace), and who is host number H, which the owner keeps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.commands.check import ask, ask_server
from loyal.app.model_options import ENDPOINT_OPTIONS, MODEL_HELP, Endpoint, load_model
from loyal.app.out_files import require_out
from loyal.app.report import Table
from loyal.app.terminal import Terminal, command, facts
from loyal.app.vaults import (
    FILE,
    LOCKING_OPTIONS,
    OPENING_OPTIONS,
    SET_OPTIONS,
    VAULT_OPTION,
    Access,
    chosen,
    open_vault,
    read_text,
)
from loyal.encoding import atomic_write, read_json
from loyal.errors import UsageError
from loyal.fingerprints import FingerprintSet, Vault

if TYPE_CHECKING:
    from loyal.fingerprints.check import CheckReport
    from loyal.fingerprints.codes import TracingCode
    from loyal.fingerprints.trace import Accusation, Observed

NOT_EVIDENCE = "An accusation says where to look. It is no evidence of use without permission."

_SET_ID = SET_OPTIONS[1]


@command(
    "deal",
    VAULT_OPTION,
    click.option("--host-number", type=int, required=True, metavar="H", help="From 0 on."),
    click.option("--out", type=FILE, required=True, metavar="FILE", help="The new vault."),
    _SET_ID,
    *LOCKING_OPTIONS,
)
def deal(terminal: Terminal, **options: Any) -> int:
    """Write one host's part of a tracing set into a vault of its own.

    Inject it into that host's copy with 'loyal fingerprint inject'. It tells nothing of the other
    hosts' parts. It opens with the same passphrase, or for --recipient. Publish the commitment that
    is printed: it fixes the whole code and tells nothing of it.
    """
    from loyal.fingerprints.codes import code_of, host_set

    access, out = Access.take(options), options["out"]
    if out.exists():
        raise UsageError(f"there is something at {out} already", hint="choose another --out")
    vault = open_vault(options["vault"], access)
    whole = chosen(vault, "tracing", options["set_id"])
    part = host_set(whole, options["host_number"])
    Vault.create(out, part, access.lock())
    terminal.result(
        {
            "id": part.id,
            "family_root": whole.root.hex(),
            "commitment": code_of(whole).commitment.hex(),
            "host_number": options["host_number"],
            "count": len(part),
            "vault": str(out),
        }
    )
    return 0


@command(
    "trace",
    VAULT_OPTION,
    click.option(
        "--observed",
        type=FILE,
        metavar="FILE",
        help="What a model answered: a check's --resume file, or 1, 0 and ? in the set's order.",
    ),
    click.option("--model", metavar="NAME", help=MODEL_HELP),
    *ENDPOINT_OPTIONS,
    click.option("--queries", type=int, help="Most keys to ask; all of them by default."),
    click.option("--system", metavar="TEXT", help="Ask under this system message."),
    click.option("--raw", is_flag=True, help="Ask without the chat template."),
    click.option(
        "--resume",
        type=FILE,
        metavar="STATE",
        help="Keep what was answered in this file, and go on from it.",
    ),
    click.option(
        "--alpha",
        type=float,
        default=1e-3,
        show_default=True,
        help="Chance that any innocent host is accused, at most.",
    ),
    click.option(
        "--decoder",
        type=click.Choice(("matched", "interleaving", "symmetric", "additive")),
        help="How replies are weighed: matched by default, additive for an additive code.",
    ),
    click.option("--all-hosts", is_flag=True, help="Show hosts that are not accused, too."),
    click.option("--out", type=FILE, metavar="FILE", help="Write the result as JSON."),
    _SET_ID,
    *OPENING_OPTIONS,
    kept_by="resume",
)
def trace(terminal: Terminal, **options: Any) -> int:
    """Name the hosts whose copies went into a model.

    The model is --model in this process, --endpoint, or what one answered before (--observed). Exit
    code 0 when a host is accused, 1 when none is. Keys that a server is asked count as spent.
    """
    from loyal.fingerprints.codes import code_of
    from loyal.fingerprints.trace import accuse

    access, endpoint = Access.take(options), Endpoint.take(options)
    sources = (options["observed"], options["model"], endpoint)
    if sum(one is not None for one in sources) != 1:
        raise UsageError(
            "say which model to trace, in one way",
            hint="give --observed FILE, --model NAME or --endpoint URL",
        )
    if options["out"] is not None:
        read = (options["vault"], options["observed"], options["resume"])
        require_out(options["out"], read, _require_result)  # before keys are spent
    if not 0 < options["alpha"] < 1:
        raise UsageError("alpha must be in (0, 1)", hint="1e-3 is the default")
    vault = open_vault(options["vault"], access)
    fingerprints = chosen(vault, "tracing", options["set_id"])
    code = code_of(fingerprints)
    observed = _observe(terminal, endpoint, vault, fingerprints, options)
    found = accuse(code, observed, options["alpha"], options["decoder"])
    traced = Traced(fingerprints.id, code, found)
    fields = traced.fields(options["all_hosts"])
    if options["out"] is not None:
        atomic_write(options["out"], json.dumps(fields, indent=2).encode() + b"\n", private=True)
    terminal.result(fields, traced.tables(options["all_hosts"]))
    return 0 if found.accused else 1


def _require_result(path: Path) -> None:
    """UsageError for a file that holds no result of `trace`."""
    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not {"decision", "accused", "commitment"} <= found.keys():
        raise UsageError(f"{path} is no result of a trace", hint="name another file")


@dataclass(frozen=True, repr=False)
class Traced:
    """What was found, as JSON fields and as tables."""

    set_id: str
    code: TracingCode
    found: Accusation

    def fields(self, all_hosts: bool) -> dict[str, Any]:
        """The outcome; hosts that are not accused only where asked for."""
        found, code = self.found, self.code
        fields = {
            "id": self.set_id,
            "decision": "traced" if found.accused else "nobody accused",
            "accused": [self._row(host) for host in found.accused],
            "alpha": found.alpha,
            "bound": found.bound,
            "threshold": found.threshold,
            "asked": found.asked,
            "hits": found.hits,
            "hosts": code.hosts,
            "fingerprints": code.length,
            "scheme": code.scheme,
            "decoder": found.decoder,
            "commitment": code.commitment.hex(),
        }
        others = {"others": [self._row(host) for host in self._innocent()]} if all_hosts else {}
        return fields | others

    def tables(self, all_hosts: bool) -> list[Table]:
        """The facts, and a row for each host that is shown."""
        shown = (*self.found.accused, *(self._innocent() if all_hosts else ()))
        accused = set(self.found.accused)
        rows = tuple((host in accused, *self._row(host).values()) for host in shown)
        columns = ("accused", "host", "score", "p-value", "over all hosts")
        hosts = Table("Hosts", columns, rows, note=NOT_EVIDENCE)
        about = {name: value for name, value in self.fields(False).items() if name != "bound"}
        about["an innocent accused, proven at most"] = self.found.bound
        return [facts(about), hosts] if rows else [facts(about)]

    def _row(self, host: int) -> dict[str, int | float]:
        p_value = float(self.found.p_values[host])
        return {
            "host": host,
            "score": int(self.found.scores[host]),
            "p_value": p_value,
            "p_value_all_hosts": min(1.0, self.code.hosts * p_value),
        }

    def _innocent(self) -> list[int]:
        accused = set(self.found.accused)
        order = self.found.p_values.argsort(kind="stable").tolist()
        return [host for host in order if host not in accused]


def _observe(
    terminal: Terminal,
    endpoint: Endpoint | None,
    vault: Vault,
    fingerprints: FingerprintSet,
    options: dict[str, Any],
) -> Observed:
    from loyal.fingerprints.check import CheckSettings
    from loyal.fingerprints.trace import observed_in, parse_observed

    file: Path | None = options["observed"]
    if file is not None:
        return parse_observed(read_text(file, "--observed"), len(fingerprints), fingerprints.id)
    named = {name: options[name] for name in ("queries", "system", "raw")}
    settings = CheckSettings(early_stop=False, **named)
    report: CheckReport
    if endpoint is not None:
        report = ask_server(terminal, endpoint, vault, fingerprints, settings, options["resume"])
    else:
        model = load_model(terminal, options["model"])
        report = ask(terminal, model, fingerprints, settings, state=options["resume"])
    return observed_in(len(fingerprints), report.indices, report.outcomes)
