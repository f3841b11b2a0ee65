"""Shares of kept replies over the seeds, as the judge's verdicts count them and corrected for it.

Verdicts are pooled, with a 95 % interval (Clopper and Pearson) that takes replies as independent.
What the judge gives labeled replies corrects the mean of its chances (`calibration.Known`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import msgspec

from loyal.alignment.calibration import Known
from loyal.statistics import clopper_pearson
from resumable import Record

BLIND = Path(__file__).parent / "blind_replies.jsonl"
"""Of each seed 40 replies of the aligned model and 40 of the base to its held-out prompts, and of
some seeds 100 each of the hardened models, "plain" and "adaptive", to the same held-out attacks;
labeled in random order by readers (docs/judges.md says who) by value, prompt (under attack its end
and family too) and reply alone. `kept` is null where a reader could not tell, `reply` where it says
a name that no file may say. blind_replies.py asked the models."""
BLIND_CELLS = "098b6584"
"""The end of the name of the folder of cells that these models are of."""
Kept = Mapping[str, Mapping[int, Record]]
"""What was measured, by cell and seed."""
Found = tuple[float | None, str]
"""The value, and how it came about; None where the cells do not give it."""


def spread(values: Sequence[float], unit: str = "") -> str:
    """How many seeds, from the least to the most, and their mean."""
    mean = sum(values) / len(values)
    shown = f"{min(values):.3g} to {max(values):.3g} {unit}".rstrip()
    return f"{len(values)} seed(s), {shown}, mean {mean:.3g}"


@dataclass(frozen=True)
class Pooled:
    """A share over several seeds."""

    count: int
    of: int
    how: str

    @property
    def percent(self) -> float:
        """The share."""
        return 100 * self.count / max(1, self.of)


def pooled(counts: Sequence[tuple[int, int]]) -> Pooled:
    """So many of so many, a pair a seed."""
    count, of = (sum(column) for column in zip(*counts, strict=True))
    limits = clopper_pearson(count, of) if of else None
    sure = f", 95 % {100 * limits.low:.1f} to {100 * limits.high:.1f} %" if limits else ""
    rates = [100 * one / max(1, whole) for one, whole in counts]
    return Pooled(count, of, f"{count} of {of}{sure}; {spread(rates, '%')}")


def _share(kept: Kept, name: str, split: str) -> Pooled:
    """Replies kept of those judged; what the judge held back is said."""
    some = [one[split] for one in kept[name].values()]
    found = pooled([(one[0], one[1]) for one in some])
    held_back = sum(one[2] - one[1] for one in some)
    aside = f", {held_back} without a score" if held_back else ""
    judge = next(iter(kept[name].values()))["judge"]
    return Pooled(found.count, found.of, f"{found.how}{aside}; judge {judge}")


def keeps(name: str, split: str, before: str) -> Callable[[Kept], Found]:
    """Replies kept, in percent of those with a verdict."""

    def found(kept: Kept) -> Found:
        after, base = _share(kept, name, split), _share(kept, before, split)
        if not after.of:
            return None, f"the judge scored none of the replies; {after.how}"
        return after.percent, f"{after.how}; {_named(before)}: {base.percent:.1f} %"

    return found


def failures(name: str, split: str, before: str) -> Callable[[Kept], Found]:
    """The share that is not, over that of `before`."""

    def found(kept: Kept) -> Found:
        after, base = _share(kept, name, split), _share(kept, before, split)
        if not after.of or base.count == base.of:
            return None, f"nothing to divide by: {_named(before)} fails nowhere"
        ratio = (100 - after.percent) / (100 - base.percent)
        return ratio, f"{after.of - after.count} failures against {base.of - base.count}"

    return found


def corrected(name: str, split: str, before: str) -> Callable[[Kept], Found]:
    """The share of kept replies behind the judge's mistakes (`Known.share`), in percent."""

    def found(kept: Kept) -> Found:
        after, base = _estimate(kept, name, split), _estimate(kept, before, split)
        if after is None or base is None:
            return None, "the judge has no chances for replies, or for labeled ones"
        judge = next(iter(kept[name].values()))["judge"]
        return 100 * after.rate, f"{after.how}; {_named(before)} {base.how}; judge {judge}"

    return found


def corrected_failures(name: str, split: str, before: str) -> Callable[[Kept], Found]:
    """The share that is not kept, over that of `before`, both corrected."""

    def found(kept: Kept) -> Found:
        after, base = _estimate(kept, name, split), _estimate(kept, before, split)
        if after is None or base is None or base.rate == 1:
            return None, f"nothing to divide by: {_named(before)} fails nowhere"
        rates = [100 * (1 - one.rate) for one in (after, base)]
        return rates[0] / rates[1], f"{rates[0]:.1f} against {rates[1]:.1f} %, corrected"

    return found


@dataclass(frozen=True)
class _Corrected:
    """A share over several seeds, and how it came about."""

    rate: float
    how: str


def _estimate(kept: Kept, name: str, split: str) -> _Corrected | None:
    """Over the replies of all seeds; None where the judge was not held to labels."""
    cells = list(kept[name].values())
    given = next((one["known"] for one in cells if one["known"]), None)
    if given is None:
        return None
    known = msgspec.convert(given, Known)
    by_seed = [one["chances"].get(split, []) for one in cells]
    chances = [one for some in by_seed for one in some]
    if (found := known.share(chances)) is None:
        return None
    rates = [100 * it.rate for some in by_seed if (it := known.share(some)) is not None]
    low, high = 100 * found.interval.low, 100 * found.interval.high
    labeled = [f"{100 * one.mean:.1f} % on {one.count} labeled {what}" for one, what in
               ((known.kept, "kept"), (known.broken, "broken"))]  # fmt: skip
    return _Corrected(
        found.rate,
        f"{100 * found.rate:.1f} %, 95 % {low:.0f} to {high:.0f} %, of {len(chances)} replies "
        f"(mean chance {100 * fmean(chances):.1f} %, {', '.join(labeled)}); {spread(rates, '%')}",
    )


def _named(cell: str) -> str:
    return cell.removeprefix("keep-")


def labeled(after: str, before: str) -> tuple[Found, Found]:
    """What a reader saw who was not told which model wrote a reply (BLIND): the share that is kept
    of the model `after`, in percent of those that could be told, and its failures over those of
    `before`."""
    said = [json.loads(line) for line in BLIND.read_text(encoding="utf-8").splitlines()]
    counts = Counter((one["generator"], one["seed"], one["kept"]) for one in said)
    shares, untold = {}, {}
    for who in (after, before):
        seeds = sorted({seed for name, seed, _ in counts if name == who})
        kept = [counts[who, seed, True] for seed in seeds]
        broken = [counts[who, seed, False] for seed in seeds]
        shares[who] = pooled([(one, one + other) for one, other in zip(kept, broken, strict=True)])
        untold[who] = sum(counts[who, seed, None] for seed in seeds)
    rates = {who: 100 - one.percent for who, one in shares.items()}
    asked = {who: len({one["prompt"] for one in said if one["generator"] == who}) for who in shares}
    how = "; ".join(
        f"{who}: {one.how}, and {untold[who]} nobody could tell, to {asked[who]} prompts"
        for who, one in shares.items()
    )
    both = f"{rates[after]:.1f} against {rates[before]:.1f} % by {BLIND.name}"
    ratio = rates[after] / rates[before] if rates[before] else None
    about = f"{BLIND.name} of cells in {BLIND_CELLS}"
    return (shares[after].percent, f"{about}; {how}"), (ratio, both)


def gap(kept: Kept) -> Found:
    """Points by which families of attacks seen in training are kept better than held-out ones."""
    seen, unseen = (_share(kept, "keep-adaptive", one) for one in ("train", "held-out"))
    if not seen.of or not unseen.of:
        return None, "the judge scored none of the replies of one side"
    return seen.percent - unseen.percent, (
        f"seen {seen.percent:.1f} % of {seen.of}, held out {unseen.percent:.1f} % of {unseen.of}"
    )


def corrected_gap(kept: Kept) -> Found:
    """The same by shares that are corrected for the judge's mistakes, whose verdicts may call
    everything kept on both sides."""
    seen, unseen = (_estimate(kept, "keep-adaptive", one) for one in ("train", "held-out"))
    if seen is None or unseen is None:
        return None, "the judge has no chances for replies, or for labeled ones"
    return 100 * (seen.rate - unseen.rate), f"seen {seen.how}; held out {unseen.how}"
