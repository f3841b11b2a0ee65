"""`simulate`: communities without models, from the first deposit to the last withdrawal.

    from loyal.roles import Scenario
    from loyal.roles.simulation import simulate

    outcome = simulate(Scenario(seed=7), interactions=20_000)
    assert outcome.innocent_slashed == 0 and outcome.broken == ()

The interactions are shared out over worlds of `WORLD_MOVES` each, so that memory stays small; each
ends with everybody taking out what is theirs. An interaction is one move of an adversary. `detect`
measures how often cheating hosts are convicted, beside the exact law of `planning`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from loyal.errors import UsageError
from loyal.protocol import events as e
from loyal.protocol import lineage, stake
from loyal.roles.attacks import DRAWN, PROWLING
from loyal.roles.conduct import ask, draw, probe, retire
from loyal.roles.invariants import closing, running
from loyal.roles.planning import Cheating, convictions, looked_at_once
from loyal.roles.scenario import Detection, Outcome, Scenario
from loyal.roles.world import DAY, Deal, World

WORLD_MOVES = 20_000
"""Moves of adversaries in one world."""
PROWL_EVERY = 4
"""Steps from one attack that needs no draw to the next."""
CHECKED_EVERY = 200
"""Steps between two looks at the invariants."""
DETECTION_HOSTS = 400
"""Licenses in one world of `detect`."""

Progress = Callable[[int, int], None]
"""Called with what is done, and what there is to do."""


def _silent(done: int, of: int) -> None:
    """No progress is shown."""


def simulate(scenario: Scenario, interactions: int, progress: Progress = _silent) -> Outcome:
    """Live through so many moves of adversaries, and count what came of them; stops at the first
    world in which an invariant does not hold."""
    if interactions < 1 or not scenario.adverse_provers:
        raise UsageError("there is nothing to simulate", hint="give interactions and adversaries")
    sums = _Sums()
    while sums.interactions < interactions and not sums.broken:
        world = World(scenario, sums.worlds)
        done = sums.interactions
        wanted = min(WORLD_MOVES, interactions - done)
        while world.tally.moves[True] < wanted and not sums.broken:
            _step(world)
            if world.steps % CHECKED_EVERY == 0:
                progress(done + min(world.tally.moves[True], wanted), interactions)
                sums.broken += running(world)
        _leave(world)
        sums.broken += [*running(world), *closing(world)]
        sums.add(world)
    progress(interactions, interactions)
    return sums.outcome()


def detect(
    scenario: Scenario, licenses: int, draws: int, progress: Progress = _silent
) -> Detection:
    """Convictions of at least so many independent licenses of hosts that skip and have a tuned
    copy, each asked `draws` keys one after the other by honest provers."""
    if licenses < 1 or draws < 1:
        raise UsageError("there is nothing to detect", hint="give licenses and draws above 0")
    convicted = [0] * (draws + 1)
    done = 0
    while done < licenses:
        size = min(DETECTION_HOSTS, licenses - done)
        alone = replace(
            scenario, hosts={"tuned": size}, withholding_provers=0, adverse_provers=0, sybils=0,
            verifiers=1, lying_verifiers=0, keys=max(draws, scenario.keys),
        )  # fmt: skip
        world = World(alone, f"detection {done}")
        for count in range(1, draws + 1):
            convicted[count] += _round(world)
        if world.tally.surprises:
            raise AssertionError(world.tally.surprises[0])
        done += size
        progress(done, licenses)
    measured, so_far = [], 0
    for one in convicted:
        so_far += one
        measured.append(so_far / done)
    law = Cheating(
        scenario.skip_share, scenario.survival, scenario.candidates, scenario.honest_provers,
        scenario.parameters,
    )  # fmt: skip
    exact, binomial = convictions(law, draws), looked_at_once(law, draws)
    return Detection(done, tuple(measured), exact, binomial)


def _round(world: World) -> int:
    """One key of every license that is not convicted, to its end; gives new convictions."""
    licenses = world.state.licenses
    asked = [one for one in world.live if licenses[one.license].conviction is None]
    for deal in asked:
        drawn = draw(world, deal)
        if drawn is not None:
            probe(world, deal, drawn)
    world.wait(4 * DAY)
    return sum(licenses[one.license].conviction is not None for one in asked)


def _step(world: World) -> None:
    """Some time, a user's question, a draw that is due, and an adversary on the prowl."""
    parameters = world.scenario.parameters
    lapse = parameters.draw_seconds + parameters.answer_seconds
    place = world.steps % len(world.live)
    deal = world.live[place]
    world.steps += 1
    world.wait(lapse // len(world.live) + 1)
    _user(world, world.rng.choice(world.live))
    used_up = world.state.licenses[deal.license].draws >= len(deal.keys)
    if used_up or not world.active(deal):
        retire(world, deal)
        world.live[place] = world.license(deal.host, deal.conduct)
    elif world.drawable(deal):
        _turn(world, deal)
    late = world.rng.choice(world.deals)
    if late.over and world.drawable(late):
        _turn(world, late)  # a license that is over can be drawn all the same
    if world.steps % PROWL_EVERY == 0:
        name = world.rng.choice(tuple(PROWLING))
        world.tally.attacks[name] += 1
        PROWLING[name](world, world.rng.choice((late, world.rng.choice(world.live))))


def _user(world: World, deal: Deal) -> None:
    """Somebody asks something."""
    if world.active(deal):
        ask(world, deal, f"a user's question {world.rng.random()}")


def _turn(world: World, deal: Deal) -> None:
    """A key goes to a prover, who does with it what it does."""
    drawn = draw(world, deal)
    if drawn is None:
        return
    if drawn.prover in world.honest_provers:
        probe(world, deal, drawn)
    elif drawn.prover in world.withholding:
        world.tally.attacks["withheld draw"] += 1
    else:
        name = world.rng.choice(tuple(DRAWN))
        world.tally.attacks[name] += 1
        DRAWN[name](world, deal, drawn)


def _leave(world: World) -> None:
    """Everything that is open comes to its end, and everybody takes out what is theirs."""
    for deal in world.live:
        retire(world, deal)
    while world.waiting:
        world.wait(DAY)
    balances = world.state.balances
    world.do(lineage.ReclaimBond(world.owners[0], world.model))
    for name, held in sorted(balances.items()):
        kind, _, rest = name.partition(":")
        purpose, _, party = rest.rpartition(":")
        if kind == "bond" and held and purpose in stake.ROLES:
            world.do(stake.Unbond(bytes.fromhex(party), purpose, held))
    world.wait(world.scenario.parameters.unbond_seconds + 1)
    for name, held in sorted(balances.items()):
        kind, _, rest = name.partition(":")
        purpose, _, party = rest.rpartition(":")
        if kind == "unbonding" and held:
            world.do(stake.Release(bytes.fromhex(party), purpose))
    for name, held in sorted(balances.items()):
        kind, _, party = name.partition(":")
        if kind == "free" and held:
            world.do(stake.Withdraw(bytes.fromhex(party), held))


@dataclass
class _Sums:
    """Counts over all worlds."""

    worlds: int = 0
    events: int = 0
    interactions: int = 0
    honest_moves: int = 0
    attacks: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    claims: Counter[str] = field(default_factory=Counter)
    convicted: Counter[str] = field(default_factory=Counter)
    slashed: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    money: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, world: World) -> None:
        """One more world, after its end."""
        self.worlds += 1
        self.events += len(world.log)
        self.interactions += world.tally.moves[True]
        self.honest_moves += world.tally.moves[False]
        self.attacks += world.tally.attacks
        self.refusals += world.tally.refusals
        self.licenses.update(one.conduct for one in world.deals)
        for claim in world.state.claims.values():
            self.claims["made"] += 1
            self.claims[_fate(claim.upheld, claim.rebutted, claim.opened is not None)] += 1
        groups = world.groups()
        for event in world.log:
            if isinstance(event, e.Convicted):
                self.convicted[world.by_license[event.license].conduct] += 1
            elif isinstance(event, e.ConvictionSettled) and event.slashed:
                self.slashed[world.by_license[event.license].conduct] += 1
            elif isinstance(event, e.Moved) and event.source == e.OUTSIDE:
                self.money[groups[event.target]] -= event.amount_micro
            elif isinstance(event, e.Moved) and event.target == e.OUTSIDE:
                self.money[groups[event.source]] += event.amount_micro
        self.money["burned"] += world.state.balance(e.BURNED)

    def outcome(self) -> Outcome:
        """Frozen."""
        return Outcome(
            self.interactions, self.honest_moves, self.worlds, self.events,
            dict(sorted(self.attacks.items())), dict(sorted(self.refusals.items())),
            dict(self.claims), dict(self.convicted), dict(self.slashed), dict(self.licenses),
            dict(self.money), tuple(dict.fromkeys(self.broken)),
        )  # fmt: skip


def _fate(upheld: bool, rebutted: bool, opened: bool) -> str:
    if upheld:
        return "upheld"
    if rebutted:
        return "rebutted"
    return "dismissed" if opened else "lapsed"
