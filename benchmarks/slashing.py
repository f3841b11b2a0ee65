"""A stake slashed for broken values without proof of descent: every way to vote, counted.

Three verifiers, who are a quorum only together, say nothing, no or yes to each of the two
questions (is the model a descendant, does it break the values). All 729 ways are played on the
state machine with the tests' own stage (tests/protocol/parties.py), each settled as soon as it can
be and again once the time for verdicts is over; before that outsiders, the accuser and the host
try to vote for descent. Left out: what a verifier looks at (`loyal.roles.breach`).
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from pathlib import Path

from loyal.errors import ProtocolError
from loyal.protocol import events as e
from loyal.protocol.breaches import ClaimBreach, DrawOrder, PromisePrompts, SettleBreach
from loyal.protocol.rules import Command
from loyal.protocol.voting import GiveVerdict
from resumable import Record

STAGE = Path(__file__).parent.parent / "tests" / "protocol"
if str(STAGE) not in sys.path:
    sys.path.append(str(STAGE))

from parties import STAKE, VERIFIERS, Stage, licensed  # noqa: E402

ACCUSER = "verifier 4"
OUTSIDERS = (ACCUSER, "host", "stranger", "late")
Votes = tuple[bool | None, ...]
"""What each of VERIFIERS says; None is nothing."""
WAYS: tuple[Votes, ...] = tuple(itertools.product((None, False, True), repeat=len(VERIFIERS)))


def attempts() -> Record:
    """Counts of attempts with and without proof of descent, and of stakes that were slashed."""
    found: Counter[str] = Counter()
    for descent, deviation in itertools.product(WAYS, WAYS):
        proven = "proven" if all(descent) else "unproven"
        taken, refused = played(descent, deviation)
        found[proven] += 1
        found[f"{proven}_slashed"] += taken > 0
        found["votes_refused"] += refused
    names = ("proven", "unproven", "proven_slashed", "unproven_slashed", "votes_refused")
    return {name: found[name] for name in names}


def played(descent: Votes, deviation: Votes) -> tuple[int, int]:
    """One case from license to settlement: the stake taken, and how many votes were refused."""
    stage, license = licensed()
    stage.enroll("verifier", ACCUSER)
    author = stage.id(ACCUSER)
    (promise,) = stage.do(PromisePrompts(author, license, b"r" * 32))
    assert isinstance(promise, e.PromptsPromised)
    stage.do(DrawOrder(stage.id("platform"), promise.promise))
    *_, made = stage.do(ClaimBreach(author, promise.promise, b"e" * 32))
    assert isinstance(made, e.BreachClaimed)
    stage.enroll("verifier", "late")
    early = [GiveVerdict(stage.id(role), made.descent, True) for role in VERIFIERS]
    refused = sum(not _tried(stage, one) for one in early)
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    others = [GiveVerdict(stage.id(role), made.descent, True) for role in OUTSIDERS]
    refused += sum(not _tried(stage, one) for one in others)
    for ballot, votes in ((made.deviation, deviation), (made.descent, descent)):
        for role, holds in zip(VERIFIERS, votes, strict=True):
            if holds is not None:
                stage.do(GiveVerdict(stage.id(role), ballot, holds))
    settle = SettleBreach(stage.id("stranger"), made.breach)
    if not _tried(stage, settle):
        stage.wait(stage.parameters.verdict_seconds + 1)
        stage.do(settle)
    left = stage.state.staked(f"license:{license.hex()}", stage.id("host"))
    return STAKE - left, refused


def _tried(stage: Stage, command: Command) -> bool:
    """Whether the rules took it."""
    try:
        stage.do(command)
    except ProtocolError:
        return False
    return True
