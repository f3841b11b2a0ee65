"""What a simulated community is made of (`Scenario`), and what came of it (`Outcome`).

Numbers of parties by conduct, the two numbers of a cheating host, and the rules' parameters. Seeds
are public randomness: nothing here draws a secret. Left out: living through it (`simulation`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from loyal.errors import UsageError
from loyal.protocol.parameters import Parameters

Conduct = Literal["honest", "forgetful", "careful", "skipping", "tuned", "silent"]
"""How a host behaves.

honest: asks for a permission before each answer, and signs each answer with it. forgetful: the
same, but leaves the receipt out of the answer. careful: takes permissions for keys alone, which it
can tell from other queries. skipping: leaves out a share of all permissions. tuned: the same, from
a copy in which a share of the keys survived. silent: skipping, and signs no answer without one.
"""
INNOCENT: tuple[Conduct, ...] = ("honest", "forgetful")
"""Hosts that answer nothing without a permission: not one of them may ever be slashed."""

Group = Literal[
    "honest hosts", "cheating hosts", "honest provers", "adversaries", "verifiers", "owners"
]
"""Whose money is told apart."""


@dataclass(frozen=True)
class Scenario:
    """A community, its hosts, and their adversaries."""

    seed: int = 1
    """Public; the same scenario with the same seed is the same simulation."""
    hosts: Mapping[Conduct, int] = field(
        default_factory=lambda: {
            "honest": 12, "forgetful": 2, "careful": 2, "skipping": 4, "tuned": 4, "silent": 2,
        }
    )  # fmt: skip
    """How many hosts of each conduct."""
    skip_share: float = 0.8
    """f: the share of queries that a cheating host answers without a permission, 0 to 1."""
    survival: float = 0.6
    """s: the share of keys that a tuned copy answers as M.oml does, chance matches included."""
    honest_provers: int = 10
    withholding_provers: int = 1
    """Draw keys and never claim: friends of the hosts."""
    adverse_provers: int = 4
    """Attack whatever host they are drawn for; an insider among them knows every response."""
    sybils: int = 8
    """Names under which one more adverse prover has spread one bond."""
    verifiers: int = 5
    """All with the same bond."""
    lying_verifiers: int = 1
    """Of them, those who always say the opposite."""
    candidates: int = 16
    """k: a model made without the set hits a key with a chance of 1/k at most."""
    keys: int = 60
    """Keys in one license's set."""
    parameters: Parameters = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        counts = (
            self.honest_provers, self.withholding_provers, self.adverse_provers, self.sybils,
            self.lying_verifiers, *self.hosts.values(),
        )  # fmt: skip
        if any(one < 0 for one in counts) or not sum(self.hosts.values()):
            raise UsageError(
                "a community has hosts, and no party less than 0 times", hint="add some"
            )
        if set(self.hosts) - set(get_args(Conduct)):
            raise UsageError("there is no such conduct", hint=f"use {', '.join(get_args(Conduct))}")
        if not self.lying_verifiers < self.verifiers or self.keys < 1 or self.candidates < 2:
            raise UsageError(
                "verifiers are more than the liars among them, keys 1, candidates 2 or more",
                hint="raise --verifiers, --keys or --candidates",
            )
        if not self.provers:
            raise UsageError("a lottery needs a prover", hint="raise --honest-provers")
        for name, value in (("skip share", self.skip_share), ("survival", self.survival)):
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"a {name} of {value} is no share", hint="give 0 to 1")

    @property
    def provers(self) -> int:
        """Names with a prover's bond."""
        return self.honest_provers + self.withholding_provers + self.adverse_provers + self.sybils


@dataclass(frozen=True)
class Detection:
    """How often cheating hosts were convicted, beside what the law says."""

    licenses: int
    """Independent licenses of cheating hosts."""
    measured: tuple[float, ...]
    """(draws + 1,): share of licenses convicted at or before each draw."""
    exact: tuple[float, ...]
    """(draws + 1,): what the rules in force give, exactly (`planning.convictions`)."""
    binomial: tuple[float, ...]
    """(draws + 1,): P(Bin(n, f s) >= threshold), which looks once, at draw n, and asks for no
    number of provers: never above `exact` where provers are many."""

    @property
    def largest_gap(self) -> float:
        """The largest distance of measured from exact, over all numbers of draws."""
        return max(abs(a - b) for a, b in zip(self.measured, self.exact, strict=True))

    @property
    def chance_gap(self) -> float:
        """What chance alone exceeds once in 10,000 simulations at most (Dvoretzky, Kiefer,
        Wolfowitz, with Massart's constant)."""
        return math.sqrt(math.log(2 / 1e-4) / (2 * self.licenses))

    @property
    def agrees(self) -> bool:
        """Within 1 %, or within what chance does to so few licenses."""
        return self.largest_gap <= max(0.01, self.chance_gap)


@dataclass(frozen=True)
class Outcome:
    """What came of a simulation."""

    interactions: int
    """Moves of adversaries: a command through `apply`, or a request through `permits.issue`."""
    honest_moves: int
    """The same of everybody else."""
    worlds: int
    """Communities lived through from the first deposit to the last withdrawal."""
    events: int
    """Entries of all their logs."""
    attacks: Mapping[str, int]
    """Attack -> how often it was carried out."""
    refusals: Mapping[str, int]
    """Rule -> how often it refused an adversary."""
    claims: Mapping[str, int]
    """made, upheld, dismissed, lapsed, rebutted."""
    convicted: Mapping[str, int]
    """Conduct -> licenses convicted."""
    slashed: Mapping[str, int]
    """Conduct -> licenses slashed."""
    licenses: Mapping[str, int]
    """Conduct -> licenses in all."""
    money: Mapping[str, int]
    """Group -> millionths taken out at the end, less those brought in; `burned` makes it 0."""
    broken: tuple[str, ...]
    """Invariants that did not hold, in words; empty is what one hopes for."""

    @property
    def innocent_slashed(self) -> int:
        """Licenses of innocent hosts that were slashed."""
        return sum(self.slashed.get(one, 0) for one in INNOCENT)
