"""`loyal fingerprint rule create | keys | draw | inject`: a secret rule, from its root to a model.

The rule lies in the vault, beside pairs if there are any. Left out: asking and proving
(rule_check.py), and what a rule is (loyal.fingerprints.functional).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.commands.evidence import BEACON_OPTION, BINDS_NOBODY
from loyal.app.model_options import MODEL_OPTION, load_model, read_rule_recipe
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import (
    FILE,
    LOCKING_OPTIONS,
    OPENING_OPTIONS,
    RULE_ID_OPTION,
    VAULT_OPTION,
    Access,
    chosen_rule,
    keeper,
    open_vault,
    require_absent,
    rule_outline,
)
from loyal.encoding import atomic_write
from loyal.errors import ModelError, UsageError
from loyal.fingerprints import Beacon, Vault, functional
from loyal.fingerprints.fingerprint import new_owner_secret
from loyal.fingerprints.functional import FunctionalSet
from loyal.fingerprints.functional_evidence import MOST_KEYS, keys_digest

if TYPE_CHECKING:
    from loyal.fingerprints.functional_inject import RuleInjectReport
    from loyal.fingerprints.functional_recipe import RuleRecipe
    from loyal.models.hf import HFModel
    from loyal.models.training import TrainProgress

PROSE_TOKENS = 4000
"""Tokens of text on which perplexity is read before and after, unless --tokens says otherwise."""


@command(
    "create",
    VAULT_OPTION,
    MODEL_OPTION,
    click.option(
        "--rule",
        type=click.Choice(("majority", "parity", "plurality")),
        help="majority, the default: more green words than red. parity: an odd number of green "
        "words. plurality: the color, of three, of most words.",
    ),
    click.option(
        "--outcomes",
        metavar="A,B",
        help="How a reply begins for each value, with commas between; plurality takes three.",
    ),
    click.option("--marked", type=int, help="Words of the public list that count; 48 by default."),
    *LOCKING_OPTIONS,
    settings=True,
)
def create(terminal: Terminal, **options: Any) -> int:
    """Make a secret rule over words in a vault.

    It is not drawn yet. Publish the printed root, wait for the beacon that follows it, and run
    'loyal fingerprint rule draw' with that beacon. Of the model the tokenizer alone is read.
    """
    outcomes = options["outcomes"] and tuple(one.strip() for one in options["outcomes"].split(","))
    named = {"rule": options["rule"], "outcomes": outcomes, "marked": options["marked"]}
    settings = read_rule_recipe(terminal, rule=named).rule
    save = keeper(options["vault"], Access.take(options))
    model = load_model(terminal, options["model"], served=True)
    if not model.has_chat_template:
        raise ModelError(
            f"the tokenizer of {model.name} has no chat template",
            hint="use a chat (instruct) model, or save a chat template with the tokenizer",
        )
    made = functional.create(
        settings,
        new_owner_secret(),
        model=options["model"],
        tokenizer_digest=model.tokenizer_digest,
        created_seconds=int(time.time()),
    )
    save(made)
    terminal.result(rule_outline(made))
    return 0


@command(
    "keys",
    VAULT_OPTION,
    click.option(
        "--count",
        type=click.IntRange(1, MOST_KEYS),
        default=40,
        show_default=True,
        help="How many keys.",
    ),
    click.option("--out", type=FILE, required=True, metavar="FILE", help="The file; keep it."),
    RULE_ID_OPTION,
    *OPENING_OPTIONS,
)
def keys(terminal: Terminal, **options: Any) -> int:
    """Write keys beforehand, and print the digest to publish.

    Published with the root, before the beacon is known, the digest shows others that no key was
    chosen to suit a color, and later that none was left out. For your own checks nothing of this is
    needed: 'check' writes fresh keys.
    """
    vault = open_vault(options["vault"], Access.take(options))
    made, out = chosen_rule(vault, options["rule_id"]), options["out"]
    require_absent(out)
    written = functional.write_keys(made, options["count"], "test")
    atomic_write(out, "".join(f"{key}\n" for key in written).encode(), private=True)
    if made.drawn:
        terminal.note("the rule is drawn already: the digest shows only that no key is left out")
    fields = {"id": made.id, "count": len(written), "keys_digest": keys_digest(written).hex()}
    terminal.result({**fields, "before_draw": not made.drawn, "out": str(out)})
    return 0


@command("draw", VAULT_OPTION, BEACON_OPTION, RULE_ID_OPTION, *OPENING_OPTIONS)
def draw(terminal: Terminal, **options: Any) -> int:
    """Print the root to publish; draw the colors.

    Publish the root first. When the beacon that follows it is known, run this again with --beacon:
    it gives each marked word its color, once and for all. Without a beacon nothing is changed.
    """
    vault = open_vault(options["vault"], Access.take(options))
    made = chosen_rule(vault, options["rule_id"])
    if options["beacon"] is not None:
        made = draw_rule_once(vault, made, Beacon.from_hex(options["beacon"]))
    if not made.drawn:
        terminal.note("not drawn yet: publish the root, then draw again with --beacon HEX")
    terminal.result(rule_outline(made))
    return 0


def draw_rule_once(vault: Vault, made: FunctionalSet, beacon: Beacon) -> FunctionalSet:
    """Draw the rule and save it; the same beacon again changes nothing, another is refused."""
    if made.beacon == beacon:
        return made
    drawn = functional.draw(made, beacon)
    vault.replace_rule(drawn)
    vault.save()
    return drawn


@command(
    "inject",
    VAULT_OPTION,
    MODEL_OPTION,
    click.option("--out", type=FILE, required=True, metavar="DIR", help="Folder for the model."),
    click.option(
        "--tokens",
        type=click.IntRange(min=1),
        default=PROSE_TOKENS,
        show_default=True,
        help="Tokens of text on which perplexity is read, before and after.",
    ),
    BEACON_OPTION,
    RULE_ID_OPTION,
    *OPENING_OPTIONS,
    settings=True,
)
def inject(terminal: Terminal, **options: Any) -> int:
    """Train a model to follow the rule.

    The model is written to --out as a Hugging Face folder. A rule that is not drawn yet is drawn by
    --beacon; without one the beacon is drawn here, and openings then bind nobody. The same command
    again goes on from the last checkpoint.
    """
    from loyal.fingerprints.functional_inject import require_rule_fits
    from loyal.models.model_folder import require_room
    from loyal.models.processes import launched, writes

    access, recipe = Access.take(options), read_rule_recipe(terminal)
    beacon = Beacon.from_hex(options["beacon"]) if options["beacon"] else None
    out: Path = options["out"]
    require_room(out)  # before a draw is settled
    vault = open_vault(options["vault"], access)
    made = chosen_rule(vault, options["rule_id"])
    if launched() > 1 and (beacon is not None or not made.drawn):
        raise UsageError(
            "several processes would each draw the rule",
            hint="draw it first: loyal fingerprint rule draw --beacon HEX",
        )
    model = load_model(terminal, options["model"])
    require_rule_fits(model, made)
    if beacon is not None or not made.drawn:
        made = draw_rule_once(vault, made, beacon or Beacon.self_drawn())
    if made.beacon is not None and made.beacon.source == "self":
        terminal.note(BINDS_NOBODY)
    report = _train(terminal, model, made, Teaching(out, recipe, options["tokens"]))
    if writes():
        terminal.result({"id": made.id, **asdict(report), "out": str(out)})
    return 0


@dataclass(frozen=True)
class Teaching:
    """Where a model goes that is taught a rule, and how it gets there."""

    out: Path
    recipe: RuleRecipe
    tokens: int


def _train(
    terminal: Terminal, model: HFModel, made: FunctionalSet, how: Teaching
) -> RuleInjectReport:
    """Train under a progress bar, one for all processes."""
    from loyal.fingerprints.functional_inject import inject_rule
    from loyal.models.processes import writes

    if not writes():
        return inject_rule(model, made, how.out, how.recipe, tokens=how.tokens)

    with terminal.progress("injecting") as update:

        def show(now: TrainProgress) -> None:
            update(now.learned, now.lessons, f"step {now.step}")

        return inject_rule(model, made, how.out, how.recipe, tokens=how.tokens, progress=show)
