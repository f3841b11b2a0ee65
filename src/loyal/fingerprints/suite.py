"""The attack suite: every attack by name, and what each leaves of a set and of the model.

    results = run_suite(suite("quick"), subject, SuiteSettings(), state=Path("rows.json"))

One row an attack: a fresh copy of M.oml is attacked, then asked every key that did not leak,
greedily unless the attack samples, and its text and answers are compared with those of M.oml. A
state file keeps the rows that are done. Keys are asked of a model in this process, so none is
spent. Left out: the attacks (`attack` says where they are) and reports (loyal.app).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from loyal.encoding import atomic_write, require_place
from loyal.errors import UsageError
from loyal.fingerprints import asking_attacks, serving_attacks, tuning_attacks, weight_attacks
from loyal.fingerprints.attack import Attack, AttackResult, Scene
from loyal.fingerprints.check import CheckReport, CheckSettings, check
from loyal.fingerprints.fingerprint import FingerprintSet
from loyal.models import evaluate, questions
from loyal.models.hf import HFModel
from loyal.statistics import Interval, binomial_tail, poisson_binomial_tail

SuiteName = Literal["quick", "full"]

PROVER_QUERIES = 100
"""Keys behind `AttackResult.p_value_100`."""

QUICK_FRACTION = 0.1
"""Of their training examples, what attacks use in the quick suite."""

_VERSION = 1

NOTHING = Attack("none", "none", "Nothing: M.oml as it is.", "the row to compare with",
                 lambda scene: scene.model, quick=True)  # fmt: skip

_EVERY = (
    NOTHING,
    *weight_attacks.ATTACKS,
    *tuning_attacks.ATTACKS,
    *asking_attacks.ATTACKS,
    *serving_attacks.ATTACKS,
)

ATTACKS: Mapping[str, Attack] = {one.name: one for one in _EVERY}
"""Every attack by name, in the order in which the suite runs them."""


def suite(name: SuiteName) -> tuple[Attack, ...]:
    """The attacks of a suite: "full" is all of them. UsageError for another name."""
    if name not in ("quick", "full"):
        raise UsageError(f"there is no suite {name}", hint="say quick or full")
    return tuple(one for one in ATTACKS.values() if one.quick or name == "full")


def named(names: Sequence[str]) -> tuple[Attack, ...]:
    """The attacks of these names, in the suite's order; UsageError names an unknown one."""
    for name in names:
        if name not in ATTACKS:
            raise UsageError(f"there is no attack {name}", hint=f"known: {', '.join(ATTACKS)}")
    return tuple(one for name, one in ATTACKS.items() if name in names)


@dataclass(frozen=True, repr=False)
class Subject:
    """What is attacked. Holds the keys: it has no repr of its own."""

    name: str
    """Tells one M.oml from another in a state file: a digest of its weights, or its folder."""
    fresh: Callable[[], HFModel]
    """Loads M.oml anew: an attack may change what it gets."""
    base: Callable[[], HFModel]
    """Loads the base that the set was injected into."""
    fingerprints: FingerprintSet
    """The drawn set that M.oml carries."""


@dataclass(frozen=True)
class SuiteSettings:
    """How to attack and to ask."""

    queries: int | None = None
    """Most keys to ask, the same ones after every attack; None asks all that did not leak."""
    leaked: float = 0.25
    """Share of the set that the attacker knows, where an attack needs leaked pairs."""
    fraction: float = 1.0
    """See `Scene.fraction`."""
    seed: int = 0
    """Of the attacks, and of which keys leak and are asked."""
    tokens: int = 8
    """Tokens asked for, or a response's where that is longer."""
    perplexity_tokens: int = 4000
    """Text on which perplexity is read."""

    def __post_init__(self) -> None:
        if self.queries is not None and self.queries < 1:
            raise UsageError("queries is at least 1", hint="ask one key or more")
        if not 0 < self.leaked < 1 or not 0 < self.fraction <= 1:
            raise UsageError(
                "leaked is in (0, 1), fraction above 0 and at most 1",
                hint="the defaults are 0.25 and 1",
            )


@dataclass(frozen=True)
class Before:
    """M.oml before any attack."""

    perplexity: float
    answered: tuple[bool, ...]
    """Whether it answers each bundled question right; empty without a chat template."""


def measure_before(subject: Subject, settings: SuiteSettings) -> Before:
    """Perplexity and right answers of M.oml."""
    return measured_before(subject.fresh(), settings.perplexity_tokens)


def measured_before(model: HFModel, tokens: int = SuiteSettings.perplexity_tokens) -> Before:
    """Perplexity, on so many tokens, and right answers of a model that nobody attacked."""
    found = evaluate.perplexity(model, evaluate.prose(), tokens)
    asked = questions.bundled_questions() if model.has_chat_template else ()
    return Before(found, tuple(questions.answered(model, asked)))


def run_attack(
    attack: Attack, subject: Subject, before: Before, settings: SuiteSettings
) -> AttackResult:
    """Attack a fresh copy, ask it, and measure it.

    Raises UsageError for an undrawn set or one too small to leak from, and what the attack raises.
    """
    leaked, asked = _divided(subject.fingerprints, attack, settings)
    model = subject.fresh()
    started = time.monotonic()
    scene = Scene(model, subject.base, leaked, settings.seed, settings.fraction)
    attacked = attack.run(scene)
    seconds = time.monotonic() - started
    checking = CheckSettings(
        early_stop=False, tokens=settings.tokens, batch=256, raw=not model.has_chat_template
    )
    report = check(attacked, subject.fingerprints, checking, unspent=asked)
    asking = questions.bundled_questions() if before.answered else ()
    after = None
    if isinstance(attacked, HFModel):
        after = evaluate.perplexity(attacked, evaluate.prose(), settings.perplexity_tokens)
    return AttackResult(
        name=attack.name,
        family=attack.family,
        asked=report.queries,
        hits=report.hits,
        survival=report.hits / report.queries,
        interval=report.interval,
        p_value=report.p_value,
        p_value_100=p_value_after(PROVER_QUERIES, report, subject.fingerprints),
        perplexity_before=before.perplexity,
        perplexity_after=after,
        utility=questions.utility(before.answered, questions.answered(attacked, asking)),
        fraction=settings.fraction,
        seconds=seconds,
    )


def run_suite(
    attacks: Sequence[Attack],
    subject: Subject,
    settings: SuiteSettings,
    *,
    state: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, of, name: None,
) -> list[AttackResult]:
    """One result an attack, in the order given.

    With a `state` file, rows that it holds are not run again, and each new row is in it before the
    next attack begins; it holds names and numbers alone. UsageError where the file is of another
    model, set or settings. `progress` hears rows done, rows in all, and what comes next.
    """
    if state is not None:
        require_place(state)
    kept = _State.read(state, subject, settings)
    missing = [one for one in attacks if one.name not in kept.rows]
    before = kept.before
    for one in missing:
        done = sum(other.name in kept.rows for other in attacks)
        if before is None:
            progress(done, len(attacks), "M.oml before any attack")
            before = measure_before(subject, settings)
        progress(done, len(attacks), one.name)
        row = run_attack(one, subject, before, settings)
        kept = replace(kept, before=before, rows={**kept.rows, row.name: row})
        kept.write(state)
    progress(len(attacks), len(attacks), "")
    return [kept.rows[one.name] for one in attacks]


def p_value_after(queries: int, report: CheckReport, fingerprints: FingerprintSet) -> float:
    """Where a prover stands after so many keys; see `AttackResult.p_value_100`.

    The first `queries` outcomes as they were asked, where there are so many. Otherwise
    floor(queries x hits / asked) hits of `queries` at the largest chance of a key asked. Keys that
    share one draw count once: their report's own p-value.
    """
    if fingerprints.shared:
        return report.p_value
    chances = [fingerprints.fingerprints[index].chance for index in report.indices]
    if report.queries >= queries:
        return poisson_binomial_tail(sum(report.outcomes[:queries]), chances[:queries])
    return binomial_tail(queries * report.hits // report.queries, queries, max(chances))


def _divided(
    fingerprints: FingerprintSet, attack: Attack, settings: SuiteSettings
) -> tuple[FingerprintSet | None, list[int]]:
    """The pairs that leaked (None for most attacks), and the indices that are asked.

    Leaked ones are the last of a shuffled order and asked ones the first, so that every attack is
    asked the same keys as far as that goes.
    """
    order = list(range(len(fingerprints)))
    random.Random(f"loyal/suite/{settings.seed}").shuffle(order)
    leaked = None
    if attack.leaks:
        count = max(1, round(len(order) * settings.leaked))
        if count >= len(order):
            raise UsageError(
                "the set is too small for some of it to leak", hint="take a set of 2 or more"
            )
        order, gone = order[:-count], order[-count:]
        # The attacker knows pairs, and not the owner's secret.
        pairs = tuple(fingerprints.fingerprints[index] for index in gone)
        leaked = replace(fingerprints, fingerprints=pairs, owner_secret=b"")
    return leaked, order[: settings.queries]


@dataclass(frozen=True)
class _State:
    """What a run has done so far, and whose it is."""

    owner: Mapping[str, Any]
    before: Before | None
    rows: Mapping[str, AttackResult]

    @classmethod
    def read(cls, path: Path | None, subject: Subject, settings: SuiteSettings) -> _State:
        """The state in a file; an empty one without it. UsageError for another run's."""
        if not subject.fingerprints.drawn:
            raise UsageError(
                "the set is not drawn yet, so no model can have it",
                hint="run 'loyal fingerprint inject' first",
            )
        owner = {
            "version": _VERSION,
            "model": subject.name,
            "set": subject.fingerprints.id,
            "settings": asdict(settings),
        }
        if path is None or not path.exists():
            return cls(owner, None, {})
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            same = {name: record[name] for name in owner} == owner
            before = Before(float(record["perplexity"]), tuple(map(bool, record["answered"])))
            rows = [_row(one) for one in record["rows"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path} holds no rows of the attack suite", hint="name another file"
            ) from error
        if not same:
            raise UsageError(
                f"{path} is of another model, set or settings",
                hint="name another file for this run",
            )
        return cls(owner, before, {one.name: one for one in rows})

    def write(self, path: Path | None) -> None:
        """Replace the file in one step; StorageError where the disk refuses."""
        if path is None or self.before is None:
            return
        record = {
            **self.owner,
            "perplexity": self.before.perplexity,
            "answered": list(self.before.answered),
            "rows": [asdict(row) for row in self.rows.values()],
        }
        atomic_write(path, (json.dumps(record, indent=1) + "\n").encode())


def _row(record: Mapping[str, Any]) -> AttackResult:
    fields = {**record, "interval": Interval(**record["interval"])}
    if not isinstance(fields["name"], str) or type(fields["hits"]) is not int:
        raise ValueError
    return AttackResult(**fields)
