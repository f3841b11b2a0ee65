"""`loyal fingerprint rule create | keys | draw | inject`: a secret rule, from its root to a model.

Rules lie in the vault, beside pairs if there are any. Left out: asking and proving (rule_check.py),
and what a rule is (loyal.fingerprints.functional).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.commands.evidence import BEACON_OPTION, BINDS_NOBODY
from loyal.app.commands.inject import TRAINED_OPTIONS
from loyal.app.model_options import MODEL_OPTION, load_model, read_rule_recipe
from loyal.app.out_files import require_folder
from loyal.app.report import Table
from loyal.app.terminal import Terminal, command, facts
from loyal.app.vaults import (
    FILE,
    LOCKING_OPTIONS,
    OPENING_OPTIONS,
    RULE_ID_OPTION,
    VAULT_OPTION,
    Access,
    chosen_rule,
    chosen_rules,
    keeper,
    next_rule,
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
        help="How a reply begins for each value, with commas between; plurality takes three. By "
        "default words that no other rule of the vault uses: Indeed,Perhaps, then Surely,Rather.",
    ),
    click.option("--marked", type=int, help="Words of the public list that count; 48 by default."),
    *LOCKING_OPTIONS,
    settings=True,
)
def create(terminal: Terminal, **options: Any) -> int:
    """Make a secret rule over words in a vault.

    It is not drawn yet. Publish the printed root, wait for the beacon that follows it, and run
    'loyal fingerprint rule draw' with that beacon. Of the model the tokenizer alone is read.

    In a vault with rules for this model it marks none of their words, and begins like none of them:
    teach them together, and ask another one when keys of one were opened.
    """
    outcomes = options["outcomes"] and tuple(one.strip() for one in options["outcomes"].split(","))
    named = {"rule": options["rule"], "outcomes": outcomes, "marked": options["marked"]}
    recipe = read_rule_recipe(terminal, rule=named)
    settings = recipe.rule
    if functional.even_colorings(max(settings.marked, 0), settings.rule) < 1 / recipe.check.alpha:
        raise UsageError(
            f"{settings.marked} marked words are too few for a p-value of {recipe.check.alpha:g}",
            hint=f"mark {functional.MARKED} of them",
        )
    kept = keeper(options["vault"], Access.take(options))
    model = load_model(terminal, options["model"], served=True)
    if not model.has_chat_template:
        raise ModelError(
            f"the tokenizer of {model.name} has no chat template",
            hint="use a chat (instruct) model, or save a chat template with the tokenizer",
        )
    beside = kept.rules(model.tokenizer_digest)
    # A vault keeps rules in the order of their seconds: two of one second would have none.
    after = max((one.created_seconds + 1 for one in beside), default=0)
    made = functional.create(
        settings,
        new_owner_secret(),
        model=options["model"],
        tokenizer_digest=model.tokenizer_digest,
        created_seconds=max(int(time.time()), after),
        beside=beside,
    )
    kept.save(made)
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
    needed: 'check' writes fresh keys. Create all rules of the model first: keys hold no word of
    those that are there. Of several rules the first is taken that was never opened.
    """
    vault = open_vault(options["vault"], Access.take(options))
    made, out = next_rule(terminal, vault, options["rule_id"], drawn=False), options["out"]
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
    *TRAINED_OPTIONS,
    BEACON_OPTION,
    click.option(
        "--rule", "--id", "rule_ids", metavar="ID", multiple=True,
        help="Which rule, by its id or how it begins; may be repeated. Else all that are drawn.",
    ),
    *OPENING_OPTIONS,
    settings=True,
    kept_by="out",
)  # fmt: skip
def inject(terminal: Terminal, **options: Any) -> int:
    """Train a model to follow the rules of a vault.

    The model is written to --out as a Hugging Face folder. All drawn rules are taught together, in
    so many times the steps of one, unless --rule names some. A rule that is named, or alone, and
    not drawn yet is drawn by --beacon; without one the beacon is drawn here, and openings then bind
    nobody. The same command again goes on from the last checkpoint.
    """
    from loyal.fingerprints.functional_inject import require_tokenizer
    from loyal.models.processes import launched, writes

    access, recipe = Access.take(options), read_rule_recipe(terminal)
    beacon = Beacon.from_hex(options["beacon"]) if options["beacon"] else None
    out: Path = options["out"]
    require_folder(out)  # before a draw is settled
    vault = open_vault(options["vault"], access)
    rules = chosen_rules(vault, options["rule_ids"])
    if launched() > 1 and (beacon is not None or not all(one.drawn for one in rules)):
        raise UsageError(
            "several processes would each draw the rule",
            hint="draw it first: loyal fingerprint rule draw --beacon HEX",
        )
    model = load_model(terminal, options["model"])
    require_tokenizer(model, rules)
    rules = _drawn(terminal, vault, rules, beacon)
    report = _train(terminal, model, rules, Teaching(out, recipe, options["tokens"]))
    if writes():
        fields = {"right": report.right, "fires": report.fires, **asdict(report), "out": str(out)}
        rows = tuple((one.id, one.right, one.fires) for one in report.rules)
        each = Table("", ("rule", "unseen keys right", "fires on sentences like keys"), rows)
        terminal.result(fields, [facts(fields), each])
    return 0


def _drawn(
    terminal: Terminal, vault: Vault, rules: Sequence[FunctionalSet], beacon: Beacon | None
) -> list[FunctionalSet]:
    """The rules, those drawn that were not yet. UsageError for a beacon that none of them has."""
    waiting = not all(one.drawn for one in rules)
    if beacon is not None and not waiting and all(one.beacon != beacon for one in rules):
        raise UsageError(
            "the rules are drawn already, by another beacon",
            hint="leave out --beacon; draw a new rule with 'loyal fingerprint rule draw'",
        )
    for one in rules:
        if not one.drawn:
            vault.replace_rule(functional.draw(one, beacon or Beacon.self_drawn()))
    if waiting:
        vault.save()  # all at once: the same command again teaches the same rules
    left = [name for name, one in vault.rules.items() if not one.drawn]
    if left:
        terminal.note(f"not drawn yet, and not taught: {', '.join(left)}")
    named = {one.id for one in rules}
    found = [one for name, one in vault.rules.items() if name in named]
    if any(one.beacon is not None and one.beacon.source == "self" for one in found):
        terminal.note(BINDS_NOBODY)
    return found


@dataclass(frozen=True)
class Teaching:
    """Where a model goes that is taught rules, and how it gets there."""

    out: Path
    recipe: RuleRecipe
    tokens: int


def _train(
    terminal: Terminal, model: HFModel, rules: Sequence[FunctionalSet], how: Teaching
) -> RuleInjectReport:
    """Train under a progress bar, one for all processes."""
    from loyal.fingerprints.functional_inject import inject_rule
    from loyal.models.processes import writes

    if not writes():
        return inject_rule(model, rules, how.out, how.recipe, tokens=how.tokens)

    with terminal.progress("injecting") as update:

        def show(now: TrainProgress) -> None:
            update(now.learned, now.lessons, f"step {now.step}")

        return inject_rule(model, rules, how.out, how.recipe, tokens=how.tokens, progress=show)
