"""`loyal fingerprint inject`: train a model to give the responses, and write M.oml.

The vault, the set and the folder are tried before the model is loaded, and a draw is saved before
training begins: the same command, run again, goes on where it was cut off. Left out: training
itself (loyal.fingerprints.inject).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.commands.evidence import BEACON_OPTION, BINDS_NOBODY, draw_once
from loyal.app.model_options import MODEL_OPTION, load_model, read_recipe
from loyal.app.out_files import require_folder
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import (
    FILE,
    OPENING_OPTIONS,
    SET_OPTIONS,
    VAULT_OPTION,
    Access,
    chosen,
    open_vault,
)
from loyal.errors import UsageError
from loyal.fingerprints import Beacon, FingerprintSet, Vault

if TYPE_CHECKING:
    from loyal.fingerprints.inject import InjectReport
    from loyal.models.hf import HFModel
    from loyal.models.training import TrainProgress, TrainSettings

PROSE_TOKENS = 4000
"""Tokens of text on which perplexity is read before and after, unless --tokens says otherwise."""

TRAINED_OPTIONS = (
    click.option("--out", type=FILE, required=True, metavar="DIR", help="Folder for the model."),
    click.option(
        "--tokens",
        type=click.IntRange(min=1),
        default=PROSE_TOKENS,
        show_default=True,
        help="Tokens of text on which perplexity is read, before and after.",
    ),
)
"""Where a trained model goes, and how much text is read before and after."""


@command(
    "inject",
    VAULT_OPTION,
    MODEL_OPTION,
    *TRAINED_OPTIONS,
    click.option(
        "--host-number",
        type=int,
        metavar="H",
        help="Tracing sets: inject only what host number H carries.",
    ),
    BEACON_OPTION,
    *SET_OPTIONS,
    *OPENING_OPTIONS,
    settings=True,
    kept_by="out",
)
def inject(terminal: Terminal, **options: Any) -> int:
    """Train a model to give the responses.

    The fingerprinted model is written to --out as a Hugging Face folder. A set that is not drawn
    yet is drawn by --beacon; without one the beacon is drawn here, and proofs then bind nobody. The
    same command again goes on from the last checkpoint.

    'accelerate launch -m loyal fingerprint inject' shares the training between GPUs; the set must
    then be drawn, and the passphrase come from a file or the environment.
    """
    from loyal.fingerprints.inject import require_fit
    from loyal.models.processes import launched, writes

    access, recipe = Access.take(options), read_recipe(terminal)
    beacon = Beacon.from_hex(options["beacon"]) if options["beacon"] else None
    require_folder(options["out"])  # before a draw is settled; `inject` itself looks again
    vault = open_vault(options["vault"], access)
    fingerprints = chosen(vault, options["kind"], options["set_id"])
    if launched() > 1 and (beacon is not None or not fingerprints.drawn):
        raise UsageError(
            "several processes would each draw the set",
            hint="draw it first: loyal fingerprint commit --beacon HEX",
        )
    model = load_model(terminal, options["model"])
    require_fit(model, fingerprints)
    drawn = part_of(terminal, _drawn(terminal, vault, fingerprints, beacon), options["host_number"])
    report = train_in(terminal, model, drawn, recipe.train, options["out"], options["tokens"])
    fields = {name: value for name, value in asdict(report).items() if name != "curve"}
    if writes():
        terminal.result({"id": drawn.id, **fields, "out": str(options["out"])})
    return 0


def train_in(
    terminal: Terminal,
    model: HFModel,
    drawn: FingerprintSet,
    settings: TrainSettings,
    out: Path,
    tokens: int = PROSE_TOKENS,
) -> InjectReport:
    """Inject under a progress bar, one for all processes; errors are those of
    `loyal.fingerprints.inject`."""
    from loyal.fingerprints import inject as verb
    from loyal.models.processes import writes

    if not writes():
        return verb.inject(model, drawn, settings, out, tokens=tokens)

    with terminal.progress("injecting") as update:

        def show(now: TrainProgress) -> None:
            update(now.learned, now.lessons, f"step {now.step}")

        return verb.inject(model, drawn, settings, out, tokens=tokens, progress=show)


def _drawn(
    terminal: Terminal, vault: Vault, fingerprints: FingerprintSet, beacon: Beacon | None
) -> FingerprintSet:
    """The set as the vault now holds it: drawn, by whatever beacon there is."""
    if beacon is not None or not fingerprints.drawn:
        fingerprints = draw_once(vault, fingerprints, beacon or Beacon.self_drawn())
    assert fingerprints.beacon is not None
    if fingerprints.beacon.source == "self":
        terminal.note(BINDS_NOBODY)
    return fingerprints


def part_of(terminal: Terminal, drawn: FingerprintSet, host: int | None) -> FingerprintSet:
    """What one host's copy carries of a tracing set; the whole set without a host number."""
    if host is not None:
        from loyal.fingerprints.codes import host_set

        return host_set(drawn, host)
    if drawn.kind == "tracing" and drawn.owner_secret:
        terminal.note(
            "the whole tracing set goes into this copy; --host-number takes a host's part"
        )
    return drawn
