"""Broken alignment as evidence: false accusations of honest hosts, queries until guilty ones.

    python benchmarks/deviation.py [--hosts 10000] [--runs 1000]

Scores are drawn, not judged: a judge of a given AUC sees kept values at N(d, 1) and broken ones at
N(0, 1), with AUC = Phi(d / sqrt(2)). The reference keeps 95 % of its values. Honest hosts use up
the whole tolerance in the worst way: 60 queries of 240 prompts, with 5 % of replies moved to the
lowest score, either spread over all prompts or all of it in 12 prompts. The test itself is
`loyal.alignment.deviation`, in logarithms for many hosts at once; 200 of the runs are repeated
with its integers. Writes results/deviation.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

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

Floats = npt.NDArray[np.float64]
SEED = 20261125
PROMPTS, POOL, KEPT = 240, 19, 0.95
RESULT = Path(__file__).parent / "results" / "deviation.json"


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


def false_accusations(count: int, law: Law, rng: np.random.Generator) -> dict[str, Any]:
    """How many honest hosts were accused at any query."""
    found: dict[str, Any] = {}
    for name, spread in (("spread", True), ("in_12_prompts", False)):
        own, pool = honest(count, law, spread, rng)
        accused = int((e_values(own, pool, law, PROMPTS).max(1) >= law.one_in).sum())
        high = clopper_pearson(accused, count).high
        found[name] = {"accused": accused, "hosts": count, "at_most_95": round(high, 6)}
    return {"stated": 1 / law.one_in, **found}


def power(
    runs: int, law: Law, auc: float, broken: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Queries until a guilty host is accused, by a first test (which needs twice `one_in`). 201 is
    more than 200 queries."""
    own, pool = hosts(runs, law, auc, broken, rng)
    past = np.maximum.accumulate(e_values(own, pool, law, PROMPTS), axis=1) >= 2 * law.one_in
    first = np.where(past.any(1), past.argmax(1) + 1, law.most + 1)
    median, late = (int(np.quantile(first, one, method="higher")) for one in (0.5, 0.95))
    return {
        "auc": auc, "broken": broken, "one_in": law.one_in,
        "detected_60": round(float((first <= 60).mean()), 4), "median": median, "queries_95": late,
    }  # fmt: skip


def same_as_the_library(law: Law, runs: int, rng: np.random.Generator) -> float:
    """The largest relative difference from `DeviationTest` at the end of some runs."""
    own, pool = hosts(runs, law, 0.85, 0.5, rng)
    fast, worst = e_values(own, pool, law, PROMPTS)[:, -1], 0.0
    for run in range(runs):
        test = DeviationTest(PROMPTS, law)
        for score, reference in zip(own[run], pool[run], strict=True):
            test.update(int(score * 10_000), [int(one * 10_000) for one in reference])
        worst = max(worst, abs(float(test.e_value) / fast[run] - 1))
    return worst


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=1_000)
    given = parser.parse_args()
    rng = np.random.default_rng(SEED)
    bounds = [false_accusations(given.hosts, Law(one_in=one), rng) for one in (100, 1_000_000)]
    rows = [
        power(given.runs, Law(one_in, most=200), auc, broken, rng)
        for one_in in (1_000, 1_000_000)
        for auc in (0.75, 0.85, 0.9)
        for broken in (0.5, 0.75, 1.0)
    ]
    result = {
        "seed": SEED, "prompts": PROMPTS, "pool": POOL, "tolerance_ppm": Law().tolerance_ppm,
        "false_accusations": bounds, "power": rows,
        "library_differs_by": same_as_the_library(Law(), min(200, given.runs), rng),
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
