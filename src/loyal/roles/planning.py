"""When a cheating host is convicted, exactly, and how many keys a license needs for it.

A host leaves out the permission of a share f of its queries, and its copy gives a share s of the
responses. Every key drawn counts as a query (rule C1); it becomes an upheld claim with chance f s,
for a permitted answer gives no claim whatever it says (C6). Where each claim is settled before the
next key is drawn, rule C11 looks after every upheld claim, and a license once convicted stays so: n
draws convict with the probability that the hits reach their threshold at some n' <= n. That first
passage is the law in force, `convictions`. P(Bin(n, f s) >= threshold) looks at draw n alone and is
a little less. Hits must also come from `least_provers` provers, each of whom has the same bond.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loyal.errors import UsageError
from loyal.protocol.parameters import Parameters
from loyal.statistics import binomial_tail, sequential_thresholds

MOST_DRAWS = 10_000
"""No plan looks further."""
_UNDECIDED = 1e-12  # what is left out of an expected number of draws


@dataclass(frozen=True)
class Cheating:
    """What a host does, and what stands against it."""

    skip_share: float
    """f: the share of queries answered without a permission, 0 to 1."""
    survival: float
    """s: the share of responses that its copy gives, 0 to 1."""
    candidates: int = 16
    """k: a model made without the set hits with 1/k at most."""
    provers: int = 10
    """With equal bonds, and all of them claim."""
    parameters: Parameters = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        for name, value in (("skip share", self.skip_share), ("survival", self.survival)):
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"a {name} of {value} is no share", hint="give 0 to 1")
        if self.provers < 1 or self.candidates < 2:
            raise UsageError("a claim needs a prover and 2 candidates", hint="raise the number")

    @property
    def hit_chance(self) -> float:
        """That one draw becomes an upheld claim."""
        return self.skip_share * self.survival

    def thresholds(self, draws: int) -> tuple[int, ...]:
        """(draws + 1,): upheld claims for a conviction, one above n where all n would not do."""
        one_in = self.parameters.false_conviction_one_in
        return sequential_thresholds(draws, self.candidates, one_in)


@dataclass(frozen=True)
class PlanRequest:
    """What a license is, and how surely a cheating host is to be caught within it."""

    cheating: Cheating
    inferences: int | None = None
    """Of the license; None where a period bounds it."""
    days: int | None = None
    """Of the license; None where inferences bound it."""
    caught: float = 0.95
    """The probability that is asked for, above 0 and below 1."""

    def __post_init__(self) -> None:
        given = [one for one in (self.inferences, self.days) if one is not None]
        if not given or min(given) < 1:
            raise UsageError("a license has inferences or days", hint="give one of both, above 0")
        if not 0.0 < self.caught < 1.0:
            raise UsageError(f"caught with {self.caught} is no plan", hint="give 0.95, or 0.99")


@dataclass(frozen=True)
class Plan:
    """How many keys, how often, and what they do."""

    keys: int | None
    """The fewest that catch as surely as asked; None where no number up to MOST_DRAWS does."""
    fits: bool
    """Whether the license has room for them, at the slowest that the rules allow."""
    most_keys: int
    """For which it has room: one key an inference, and one in `slowest_seconds` of its period."""
    slowest_seconds: int
    """From a draw that is neither claimed nor demanded an answer to, to the next one."""
    every_inferences: int | None
    """One key in so many inferences; None where nothing fits or inferences do not bound it."""
    every_seconds: int | None
    """One key in so many seconds, likewise."""
    caught: float
    """The probability of a conviction within the license, at this pace."""
    expected_draws: float | None
    """Until the conviction, were there keys without end; None where it is not sure to come."""


def convictions(cheating: Cheating, draws: int) -> tuple[float, ...]:
    """(draws + 1,): the probability of a conviction at or before each draw, exactly.

    State: hits so far, and from how many provers, `least_provers` standing for all above. A hit
    comes from a new prover with chance (P - d) / P.
    """
    import numpy as np  # here: a host's gateway imports this room, and plans nothing

    thresholds, least = cheating.thresholds(draws), cheating.parameters.least_provers
    chance, top = cheating.hit_chance, thresholds[-1]
    new = np.array([max(cheating.provers - d, 0) / cheating.provers for d in range(least)])
    running = np.zeros((top + 1, least + 1))  # (hits, provers): not convicted so far
    running[0, 0] = 1.0
    convicted, found = 0.0, [0.0]
    for threshold in thresholds[1:]:
        hit = np.zeros_like(running)
        hit[1:] = running[:-1] * chance
        hit[top] += running[top] * chance  # as many hits as are ever asked for, or more
        running *= 1.0 - chance
        running[:, :least] += hit[:, :least] * (1.0 - new)
        running[:, 1:least] += hit[:, : least - 1] * new[:-1]
        arrived = hit[:, least] + hit[:, least - 1] * new[-1]
        running[:threshold, least] += arrived[:threshold]
        convicted += float(arrived[threshold:].sum())
        found.append(min(convicted, 1.0))
    return tuple(found)


def looked_at_once(cheating: Cheating, draws: int) -> tuple[float, ...]:
    """(draws + 1,): P(Bin(n, f s) >= threshold), for comparison."""
    return tuple(
        binomial_tail(hits, n, cheating.hit_chance) if hits <= n else 0.0
        for n, hits in enumerate(cheating.thresholds(draws))
    )


def plan(request: PlanRequest) -> Plan:
    """How many keys the license needs, and at what pace they are to be asked."""
    cheating = request.cheating
    found = _until(cheating, request.caught)
    keys = next((n for n, chance in enumerate(found) if chance >= request.caught), None)
    slowest = cheating.parameters.draw_seconds + 1
    most = _room(request, slowest)
    asked = min(keys if keys is not None else most, most)
    caught = found[asked] if asked < len(found) else convictions(cheating, asked)[-1]
    seconds = request.days * 86_400 if request.days is not None else None
    expected = sum(1.0 - one for one in found)
    return Plan(
        keys,
        keys is not None and keys <= most,
        most,
        slowest,
        request.inferences // asked if request.inferences is not None and asked else None,
        seconds // asked if seconds is not None and asked else None,
        caught,
        expected if 1.0 - found[-1] <= _UNDECIDED else None,
    )


def _room(request: PlanRequest, slowest: int) -> int:
    bounds = [MOST_DRAWS]
    if request.inferences is not None:
        bounds.append(request.inferences)
    if request.days is not None:
        bounds.append(request.days * 86_400 // slowest)
    return min(bounds)


def _until(cheating: Cheating, caught: float) -> tuple[float, ...]:
    """Convictions by draw, as far as a plan has to look."""
    draws = 64
    while True:
        found = convictions(cheating, draws)
        if 1.0 - found[-1] <= _UNDECIDED or draws >= MOST_DRAWS:
            return found
        draws = min(draws * 4, MOST_DRAWS)
