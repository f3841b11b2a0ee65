"""The figures of traitor tracing: `make bench-tracing`.

No model is run: colluders mix the bits that the real codes give them, some answers are lost, and
the real decoder names hosts. Each step replaces its rows in results/tracing.json; `python
benchmarks/tracing.py STEP ...` runs single steps, `show` prints the table alone. Colluders know how
many of them carry a fingerprint, and not its bias, which is as secret as the code.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from loyal.fingerprints.codes import ADDITIVE, ONE, Scheme, TracingCode
from loyal.fingerprints.trace import Accusation, accuse
from loyal.statistics import clopper_pearson
from rows import Row, put, show

NAME = "tracing"
HOSTS = 2048
TRIALS = 400
ALPHA = 1e-3

Strategy = Callable[[np.ndarray, int, float, np.random.Generator], np.ndarray]
"""(carriers of each fingerprint, colluders, mean bias, rng) -> answers where they can choose."""

STRATEGIES: dict[str, Strategy] = {
    "majority": lambda z, c, p, rng: 2 * z > c,
    "minority": lambda z, c, p, rng: 2 * z < c,
    "interleave": lambda z, c, p, rng: rng.random(len(z)) < z / c,
    "any": lambda z, c, p, rng: z > 0,
    "refuse": lambda z, c, p, rng: z == c,
    "against additive": lambda z, c, p, rng: z < c * p,
}
"""The last answers where fewer of them carry the fingerprint than of all hosts: the best play
against additive scores, and that of minority against a code of mean bias 1/2."""


@dataclass(frozen=True)
class Cell:
    """One setting."""

    id: str
    colluders: int
    length: int
    survival: float
    bound: float
    """Percent of runs in which a colluder should be traced."""


CELLS = (
    Cell("3-of-512", 3, 512, 1.0, 99),
    Cell("5-of-2048", 5, 2048, 1.0, 95),
    Cell("3-of-1024-at-60", 3, 1024, 0.6, 95),
)


@dataclass
class Count:
    """What came of the runs of one strategy."""

    runs: int = 0
    traced: int = 0
    """A colluder's score is above every innocent's, and is accused."""
    top: int = 0
    """A colluder's score is above every innocent's; a tie does not count."""
    accused: int = 0
    """Some colluder is accused."""
    named: int = 0
    """Colluders accused, over all runs."""
    wrong: int = 0
    """Runs in which an innocent is accused."""

    def add(self, found: Accusation, colluders: int) -> None:
        """Note one run, whose colluders are hosts 0 to colluders - 1."""
        top = int(found.scores[:colluders].max()) > int(found.scores[colluders:].max())
        guilty = sum(host < colluders for host in found.accused)
        self.runs += 1
        self.top += top
        self.accused += guilty > 0
        self.traced += top and guilty > 0
        self.named += guilty
        self.wrong += guilty < len(found.accused)


def _secret(seed: int, trial: int, scheme: str) -> bytes:
    """A simulated secret; real ones never come from a seed."""
    return sha256(f"{seed} {trial} {scheme}".encode()).digest()


def mixed(
    code: TracingCode, cell: Cell, strategy: Strategy, rng: np.random.Generator
) -> np.ndarray:
    """What the colluders' model answers, shape (length,): the marking assumption, then losses."""
    carriers, c = code.matrix(range(cell.colluders)).sum(axis=0), cell.colluders
    mean = ADDITIVE / ONE if code.scheme == "additive" else 0.5
    answer = strategy(carriers, c, mean, rng)
    answer = np.where(carriers == 0, False, np.where(carriers == c, True, answer))
    return (answer & (rng.random(code.length) < cell.survival)).astype(np.int8)


class KeptRows(TracingCode):
    """The same code, whose rows are drawn once for all strategies."""

    def matrix(self, hosts: range) -> np.ndarray:
        """A view of the kept rows."""
        if "kept" not in self.__dict__:
            self.__dict__["kept"] = TracingCode.matrix(self, range(self.hosts))
        return self.__dict__["kept"][hosts.start : hosts.stop]


def _runs(cell: Cell, scheme: Scheme, seed: int, trials: int) -> dict[str, Count]:
    counts = {name: Count() for name in STRATEGIES}
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        code = KeptRows(_secret(seed, trial, scheme), HOSTS, cell.length, scheme)
        for name, strategy in STRATEGIES.items():
            found = accuse(code, mixed(code, cell, strategy, rng), ALPHA)
            counts[name].add(found, cell.colluders)
    return counts


def _rows(cell: Cell, seed: int) -> list[Row]:
    rows = []
    wrong = runs = 0
    for scheme in ("arcsine", "additive"):
        trials = TRIALS if scheme == "arcsine" else TRIALS // 4
        counts = _runs(cell, scheme, seed, trials)
        name, worst = min(counts.items(), key=lambda item: (item[1].traced, item[1].named))
        low = clopper_pearson(worst.traced, worst.runs).low
        how = (
            f"worst of {len(counts)} strategies ({name}): {worst.traced} of {worst.runs} runs, "
            f"above {100 * low:.1f} % with 95 % confidence; each: "
            + "; ".join(
                f"{one} {n.traced} traced, {n.top} top, {n.accused} accused, "
                f"{n.named / n.runs:.2f} colluders named"
                for one, n in counts.items()
            )
            + f"; alpha {ALPHA} over all hosts, seed {seed}"
        )
        what = (
            f"{cell.colluders} colluders, {HOSTS:,} hosts, {cell.length:,} fingerprints, "
            f"{100 * cell.survival:.0f} % survive: highest score a colluder's, and accused"
        )
        name, first = min(counts.items(), key=lambda item: item[1].top)
        bound = cell.bound if scheme == "arcsine" else 0
        rows += [
            Row(f"trace-{cell.id}-{scheme}", f"{what}; {scheme}", 100 * worst.traced / worst.runs,
                "%", bound, "at_least", how),
            Row(f"trace-{cell.id}-{scheme}-top", f"the same, highest score alone; {scheme}",
                100 * first.top / first.runs, "%", bound, "at_least", f"worst: {name}; same runs"),
        ]  # fmt: skip
        wrong += sum(n.wrong for n in counts.values())
        runs += sum(n.runs for n in counts.values())
    rows[0] = Row(**{**rows[0].__dict__, "how": f"{rows[0].how}; {wrong} of {runs} accuse wrongly"})
    return rows


def tracing(seed: int) -> list[Row]:
    """Colluders traced, in every setting and by both schemes."""
    return [row for cell in CELLS for row in _rows(cell, seed)]


def innocents(seed: int) -> list[Row]:
    """Runs in which an innocent is accused: independent codes, colluders of all strategies."""
    cell, runs, wrong, bounds = CELLS[0], 12_000, 0, []
    names = list(STRATEGIES)
    for trial in range(runs):
        rng = np.random.default_rng([seed, 7, trial])
        code = KeptRows(_secret(seed, trial, "innocents"), HOSTS, 128)
        answer = mixed(code, cell, STRATEGIES[names[trial % len(names)]], rng)
        found = accuse(code, answer | (rng.random(128) < 1 / 16), ALPHA)
        wrong += any(host >= cell.colluders for host in found.accused)
        bounds.append(found.bound)
    rate = clopper_pearson(wrong, runs)
    how = (
        f"{wrong} of {runs:,} runs, {1e3 * wrong / runs:.2f} in 1,000, 95 % interval "
        f"{1e3 * rate.low:.2f} to {1e3 * rate.high:.2f}; {HOSTS:,} hosts, 128 fingerprints, 3 "
        f"colluders of {len(names)} strategies, chance matches of 1/16, fresh code each; "
        f"seed {seed}"
    )
    return [
        Row("false-accusation-bound", "any innocent accused: proven bound, largest of all runs",
            max(bounds), "", ALPHA, "at_most", how),
        Row("false-accusation-measured", "any innocent accused: measured, lower 95 % limit",
            rate.low, "", ALPHA, "at_most", how),
    ]  # fmt: skip


def speed(seed: int) -> list[Row]:
    """CPU of naming colluders, the code drawn anew each time."""
    took = []
    for trial in range(9):
        code = TracingCode(_secret(seed, trial, "speed"), HOSTS, 4096)
        observed = mixed(code, CELLS[0], STRATEGIES["majority"], np.random.default_rng(trial))
        code = TracingCode(code.secret, HOSTS, 4096)
        began = time.process_time()
        accuse(code, observed)
        took.append(time.process_time() - began)
    how = f"median of {len(took)}, worst {max(took):.2f} s; code, decoder and exact tail included"
    return [
        Row("trace-cpu", f"naming colluders among {HOSTS:,} hosts x 4,096 fingerprints",
            sorted(took)[len(took) // 2], "CPU s", 1, "at_most", how),
    ]  # fmt: skip


STEPS: dict[str, Callable[[int], list[Row]]] = {
    "tracing": tracing, "innocents": innocents, "speed": speed,
}  # fmt: skip


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
