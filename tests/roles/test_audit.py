"""An auditor takes a log that the rules wrote, and no other, whoever signed it.

Each forgery is one that `State.record` folds without a word: a platform could write it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from community import opened, request
from parties import DAY, Stage
from shelf import Shelf

from loyal import merkle
from loyal.errors import LedgerError
from loyal.protocol import State
from loyal.protocol import events as e
from loyal.protocol.audit import Auditor
from loyal.roles import Platform


def lived() -> tuple[Shelf, Platform, Stage, bytes]:
    """A community with permissions, claims, verdicts."""
    shelf, platform, stage, license = opened()
    platform.permit([request(stage, license, number) for number in range(5)], stage.now)
    for number in range(2):
        stage.judge(stage.probe(license, number))
    platform.permit([request(stage, license, 9)], stage.now)
    return shelf, platform, stage, license


def audited(log: list[bytes], platform: bytes) -> Auditor:
    """The whole log, read."""
    auditor = Auditor(State(platform))
    for entry in log:
        auditor.read(entry)
    auditor.finish()
    return auditor


def refused(log: list[e.Event], platform: bytes) -> int:
    """The place at which an auditor stops; the fold alone takes it all."""
    State(platform).replay(log)
    with pytest.raises(LedgerError) as caught:
        audited([e.encode_event(one) for one in log], platform)
    assert caught.value.reason == "rules"
    return int(str(caught.value).split()[1])


def test_what_a_platform_wrote_passes() -> None:
    shelf, platform, _, _ = lived()
    auditor = audited(shelf.log, platform.state.platform)
    assert auditor.state == platform.state
    assert auditor.root == merkle.root(shelf.log)


def test_every_entry_that_is_left_out_or_repeated_is_noticed() -> None:
    shelf, platform, _, _ = lived()
    for at in range(len(shelf.log) - 1):
        for log in (
            shelf.log[:at] + shelf.log[at + 1 :],
            shelf.log[: at + 1] + shelf.log[at:],
        ):
            with pytest.raises(LedgerError):
                audited(log, platform.state.platform)


def test_a_log_that_stops_inside_a_step_is_noticed() -> None:
    shelf, platform, _, _ = lived()
    with pytest.raises(LedgerError):
        audited(shelf.log[:-1], platform.state.platform)


def test_money_for_a_friend_follows_from_no_command() -> None:
    shelf, platform, stage, _ = lived()
    log = [e.decode_event(one) for one in shelf.log]
    gift = e.Moved(e.free(stage.id("host")), e.free(stage.id("member")), 1)
    assert refused([*log, gift], platform.state.platform) == len(log) + 1


def test_a_verdict_that_no_verifier_signed_is_noticed() -> None:
    shelf, platform, stage, _ = lived()
    log = [e.decode_event(one) for one in shelf.log]
    at = next(i for i, one in enumerate(log) if isinstance(one, e.VerdictGiven))
    turned = replace(log[at], holds=not log[at].holds)  # type: ignore[call-arg,attr-defined]
    changed = [*log[:at], turned]
    assert refused(changed, platform.state.platform) == at
    invented = e.VerdictGiven(bytes(32), stage.id("member"), True)
    assert refused([*log, invented], platform.state.platform) == len(log)


def batch_of(log: list[e.Event]) -> int:
    """Where the last batch stands."""
    return max(i for i, one in enumerate(log) if isinstance(one, e.BatchIssued))


def test_a_batch_costs_what_its_permissions_cost() -> None:
    shelf, platform, _, license = lived()
    log = [e.decode_event(one) for one in shelf.log]
    at = batch_of(log)
    batch = log[at]
    assert isinstance(batch, e.BatchIssued)
    free_ride = [*log[:at], replace(batch, count=2, usage=((license, batch.usage[0][1], 2),))]
    assert refused(free_ride, platform.state.platform) == at
    skipped = [*log[:at], replace(batch, usage=((license, batch.usage[0][1] + 1, 1),))]
    assert refused(skipped, platform.state.platform) == at
    late = [*log[:at], replace(batch, seconds=batch.seconds + 60 * DAY)]
    assert refused(late, platform.state.platform) == at
    early = [*log[:at], replace(batch, seconds=batch.seconds - 60 * DAY)]
    assert refused(early, platform.state.platform) == at


def test_a_settlement_out_of_time_is_noticed() -> None:
    """The seconds of a command are part of what the rules read."""
    shelf, platform, _, _ = lived()
    log = [e.decode_event(one) for one in shelf.log]
    for at, one in enumerate(log):
        if isinstance(one, e.CommandTaken) and isinstance(log[at + 1], e.LeafOpened):
            moved = [*log[:at], replace(one, seconds=one.seconds + DAY), *log[at + 1 : at + 2]]
            assert refused(moved, platform.state.platform) == at + 1
            return
    raise AssertionError("no leaf was opened")
