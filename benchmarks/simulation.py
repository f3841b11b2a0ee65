"""The figures of the simulated protocol: `python benchmarks/simulation.py`.

No model is run: hosts, provers, verifiers and adversaries drive the real rules. Each step replaces
its row in results/protocol.json. `python benchmarks/simulation.py STEP ...` runs single steps;
`show` prints the table alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

from loyal.roles import Scenario
from loyal.roles.simulation import detect, simulate
from rows import Row, put, show

NAME = "protocol"
INTERACTIONS = 1_000_000
LICENSES = 40_000
"""Chance alone is 1 % off somewhere on the curve of so many once in 1,500 runs (`chance_gap`)."""
DRAWS = 20
CHEATING = Scenario(skip_share=0.9, survival=0.8)


def honest(seed: int) -> list[Row]:
    """Adversaries against honest hosts."""
    began, cpu = time.monotonic(), time.process_time()
    outcome = simulate(Scenario(seed=seed), INTERACTIONS)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    innocent = sum(outcome.licenses[one] for one in ("honest", "forgetful"))
    how = (
        f"{outcome.interactions:,} moves of adversaries ({len(outcome.attacks)} attacks, "
        f"{sum(outcome.refusals.values()):,} refusals by {len(outcome.refusals)} rules) and "
        f"{outcome.honest_moves:,} others in {outcome.worlds} communities, {wall:.0f} s "
        f"({cpu:.0f} CPU s); {innocent:,} licenses of innocent hosts; "
        f"{sum(outcome.slashed.values()):,} slashes of cheating ones; invariants broken: "
        f"{len(outcome.broken)}; seed {seed}"
    )
    return [
        Row("simulated-honest-slashed", "simulated honest hosts slashed, 1,000,000 interactions",
            outcome.innocent_slashed + len(outcome.broken), "hosts", 0, "at_most", how),
    ]  # fmt: skip


def detection(seed: int) -> list[Row]:
    """Convictions of cheating hosts against the exact law."""
    began, cpu = time.monotonic(), time.process_time()
    found = detect(replace(CHEATING, seed=seed), LICENSES, DRAWS)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    once = max(abs(a - b) for a, b in zip(found.measured, found.binomial, strict=True))
    how = (
        f"largest distance over 1 to {DRAWS} draws from the exact probability of a conviction at "
        f"or before each; f = {CHEATING.skip_share}, s = {CHEATING.survival}, k = "
        f"{CHEATING.candidates}, {found.licenses:,} independent licenses, {wall:.0f} s "
        f"({cpu:.0f} CPU s); {100 * once:.2f} % from P(Bin(n, f s) >= threshold), which looks at "
        f"draw n alone; seed {seed}"
    )
    return [
        Row("simulated-detection", "simulated detection against the formula",
            100 * found.largest_gap, "%", 1, "at_most", how),
    ]  # fmt: skip


STEPS: dict[str, Callable[[int], list[Row]]] = {"honest": honest, "detection": detection}


def main() -> None:
    """Run the steps named, or all; then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(STEPS)}; show prints alone")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for step in [] if given.steps == ["show"] else given.steps or list(STEPS):
        print(f"{step} ...", flush=True)
        put(NAME, STEPS[step](given.seed))
    show(NAME)


if __name__ == "__main__":
    main()
