"""Broken alignment as evidence: false accusations of honest hosts, queries until guilty ones.

    python benchmarks/deviation.py [--hosts 10000] [--runs 1000]

Scores are drawn, not judged: a judge of a given AUC sees kept values at N(d, 1) and broken ones at
N(0, 1), with AUC = Phi(d / sqrt(2)). The reference keeps 95 % of its values. Honest hosts use up
the whole tolerance in the worst way: 60 queries of 240 prompts, with 5 % of replies moved to the
lowest score, either spread over all prompts or all of it in 12 prompts. The test itself is
`loyal.alignment.deviation`, in logarithms for many hosts at once; 200 of the runs are repeated
with its integers.
"""

from __future__ import annotations

import argparse
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from loyal.alignment.deviation import (
    CUTS_PPM,
    FRACTIONS,
    SPREADS,
    UNIT,
    WHOLE_PPM,
    DeviationTest,
    Law,
)
from loyal.statistics import clopper_pearson
from rows import Row, put, show

Floats = npt.NDArray[np.float64]
SEED = 20261125
PROMPTS, POOL, KEPT = 240, 19, 0.95
NAME = "deviation"
CELLS = tuple((auc, broken) for auc in (0.9, 0.85, 0.75) for broken in (1.0, 0.75, 0.5))
CLAIMED = {(0.9, 1.0), (0.85, 1.0)}
"""Judge's AUC and share of prompts broken, where 95 % are claimed to be found within 60 queries."""


def low_shares(own: Floats, pool: Floats, cut: float) -> Floats:
    """(hosts, queries): phi of `own` (hosts, queries) in `pool` (hosts, queries, R)."""
    below = (pool < own[..., None]).sum(-1)
    ties = (pool == own[..., None]).sum(-1)
    return np.clip((cut * (pool.shape[-1] + 1) - below) / (1 + ties), 0, 1)


def e_values(own: Floats, pool: Floats, law: Law, prompts: int) -> Floats:
    """(hosts, queries): the e-value after each query, as `DeviationTest` has it."""
    asked = np.arange(own.shape[1])
    allowed = law.tolerance_ppm / WHOLE_PPM * prompts / (prompts - asked)
    gains = np.array(
        [low_shares(own, pool, cut) / (cut + allowed) - 1 for cut in np.array(CUTS_PPM) / WHOLE_PPM]
    )
    mixed = np.tensordot(np.array(SPREADS), gains, 1)  # (spreads, hosts, queries)
    parts = [np.cumsum(np.log1p(part / UNIT * one), axis=1) for one in mixed for part in FRACTIONS]
    return np.asarray(np.exp(np.array(parts)).mean(0))


def scores(kept: npt.NDArray[np.bool_], auc: float, rng: np.random.Generator) -> Floats:
    """A judge's scores of replies that keep their value or not, as whole numbers 0 to 100."""
    apart = NormalDist().inv_cdf(auc) * 2**0.5
    raw = rng.normal(size=kept.shape) + apart * kept
    return np.round(np.clip(50 + 15 * (raw - apart / 2), 0, 100))


def hosts(
    count: int, law: Law, auc: float, broken: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Scores (count, most) and pools (count, most, R) of hosts that break a share of replies more
    than the reference does."""
    kept = rng.random((count, law.most)) < KEPT * (1 - broken)
    pool = rng.random((count, law.most, POOL)) < KEPT
    return scores(kept, auc, rng), scores(pool, auc, rng)


def honest(count: int, law: Law, spread: bool, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Hosts at the edge of the tolerance: its whole mass goes to the lowest score there is."""
    own, pool = hosts(count, law, 0.85, 0.0, rng)
    share = law.tolerance_ppm / WHOLE_PPM
    if spread:
        moved = rng.random(own.shape) < share
    else:
        order = rng.permuted(np.tile(np.arange(PROMPTS), (count, 1)), axis=1)
        moved = order[:, : law.most] < round(share * PROMPTS)
    own[moved] = -1
    return own, pool


def false_accusations(count: int, one_in: int, rng: np.random.Generator) -> list[Row]:
    """How many honest hosts are accused at any query, at the bare bound; a lower 95 % limit."""
    law, rows = Law(one_in), []
    for name, spread in (("spread", True), ("lumped", False)):
        own, pool = honest(count, law, spread, rng)
        accused = int((e_values(own, pool, law, PROMPTS).max(1) >= one_in).sum())
        limits = clopper_pearson(accused, count)
        how = (
            f"{accused} of {count:,} hosts, 95 % interval {limits.low:.2g} to {limits.high:.2g}; "
            f"{law.most} queries of {PROMPTS} prompts, pools of {POOL}, the whole tolerance of 5 % "
            f"used, {'over all prompts' if spread else 'in 12 prompts'}; seed {SEED}"
        )
        what = f"honest hosts accused, stated bound 1 in {one_in:,}, tolerance {name}"
        rows.append(
            Row(
                f"deviation-honest-{name}-{one_in}",
                what,
                limits.low,
                "",
                1 / one_in,
                "at_most",
                how,
            )
        )
    return rows


def power(runs: int, one_in: int, rng: np.random.Generator) -> list[Row]:
    """How many guilty hosts a first test (it needs twice `one_in`) finds within 60 queries."""
    law, rows = Law(one_in, most=200), []
    for auc, broken in CELLS:
        own, pool = hosts(runs, law, auc, broken, rng)
        past = np.maximum.accumulate(e_values(own, pool, law, PROMPTS), axis=1) >= 2 * one_in
        first = np.where(past.any(1), past.argmax(1) + 1, law.most + 1)
        median, late = (int(np.quantile(first, one, method="higher")) for one in (0.5, 0.95))
        how = (
            f"{runs:,} runs; median {median} queries, 95 % by {late} (201 is never within 200); "
            f"{PROMPTS} prompts, pools of {POOL}, seed {SEED}"
        )
        what = f"found within 60 queries, judge's AUC {auc}, {broken:.0%} broken, 1 in {one_in:,}"
        name = f"deviation-found-{auc:.2f}-{broken:.2f}-{one_in}"
        bound = 95 if (auc, broken) in CLAIMED else None
        found = 100 * float((first <= 60).mean())
        rows.append(Row(name, what, found, "%", bound, "at_least", how))
    return rows


def same_as_the_library(runs: int, rng: np.random.Generator) -> list[Row]:
    """The largest relative difference from `DeviationTest` at the end of some runs."""
    law, worst = Law(), 0.0
    own, pool = hosts(runs, law, 0.85, 0.5, rng)
    fast = e_values(own, pool, law, PROMPTS)[:, -1]
    for run in range(runs):
        test = DeviationTest(PROMPTS, law)
        for score, reference in zip(own[run], pool[run], strict=True):
            test.update(int(score * 10_000), [int(one * 10_000) for one in reference])
        worst = max(worst, abs(float(test.e_value) / float(fast[run]) - 1))
    how = f"largest of {runs} runs; the library rounds to a millionth, on the host's side"
    what = "e-value against the library's, relative"
    return [Row("deviation-same", what, worst, "", 1e-3, "at_most", how)]


def main() -> None:
    """Run, keep the rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=1_000)
    given = parser.parse_args()
    rng = np.random.default_rng(SEED)
    for one_in in (100, 1_000_000):
        put(NAME, false_accusations(given.hosts, one_in, rng))
    for one_in in (1_000, 1_000_000):
        put(NAME, power(given.runs, one_in, rng))
    put(NAME, same_as_the_library(min(200, given.runs), rng))
    show(NAME)


if __name__ == "__main__":
    main()
