"""The platform: what it says is durable, what it reads is checked, what it keeps is replayed."""

from __future__ import annotations

import copy

import pytest
from community import licensed, opened, request, signed
from parties import PROVERS, key_of
from shelf import KEYS, Shelf, fail_once, reopened

from loyal import merkle
from loyal.errors import LedgerError, PermissionRefused, ProtocolError, StorageError
from loyal.protocol import Checkpoint, NoteSigner, Receipt, SignedNote
from loyal.protocol import events as e
from loyal.protocol.checkpoint import open_checkpoint, sign_checkpoint
from loyal.protocol.disputes import DrawKey, lottery
from loyal.protocol.permission import MOST_LEAVES
from loyal.protocol.stake import Deposit, Withdraw
from loyal.roles import Platform, PlatformKeys


def size_of(note: bytes) -> int:
    """The tree that a note signs."""
    return Checkpoint.from_text(SignedNote.from_bytes(note).text).size


def test_a_replay_gives_the_living_state() -> None:
    shelf, platform, stage, license = opened()
    assert reopened(shelf).state == platform.state
    platform.permit([request(stage, license, number) for number in range(5)], stage.now)
    for number in range(2):
        stage.judge(stage.probe(license, number))
    platform.permit([request(stage, license, 9)], stage.now)
    assert len(platform.state.claims) == 2
    assert reopened(shelf).state == platform.state
    assert reopened(shelf).checkpoint == platform.checkpoint


def test_every_commit_signs_the_true_tree_and_a_larger_one() -> None:
    shelf, platform, stage, license = opened()
    platform.permit([request(stage, license, 0)], stage.now)
    sizes = []
    for data in shelf.notes:
        signed = open_checkpoint(SignedNote.from_bytes(data), KEYS.log.verifier).checkpoint
        assert signed.root == merkle.root(shelf.log[: signed.size])
        sizes.append(signed.size)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == len(shelf.log)


def test_the_beacon_of_a_draw_is_the_root_before_it() -> None:
    shelf, platform, stage, license = opened()
    bonds = tuple(one for one in platform.state.electorate("prover") if one[0] != stage.id("host"))
    root = merkle.root(shelf.log)
    drawn = platform.submit(DrawKey(stage.id("platform"), license), stage.now)[0]
    assert isinstance(drawn, e.KeyDrawn)
    assert drawn.prover == lottery(bonds, root, license, 0)
    assert drawn.prover in {stage.id(role) for role in PROVERS}


def test_outcomes_stand_in_the_order_of_the_requests() -> None:
    _, platform, stage, license = opened()
    stranger = request(stage, license, 1, host="owner")
    asked = [request(stage, license, 0), stranger, request(stage, license, 2)]
    first, refused, second = platform.permit(asked, stage.now)
    assert isinstance(refused, ProtocolError)
    assert refused.rule == "P1"
    for number, outcome in enumerate((first, second)):
        receipt = Receipt.from_bytes(outcome)
        assert receipt.verify(key_of("platform").public).sequence == number
        assert platform.state.batches[receipt.header.log_index] == receipt.header.root


def test_the_same_key_gets_the_same_receipt_and_is_paid_once() -> None:
    shelf, platform, stage, license = opened()
    asked = request(stage, license, 7)
    first, twin = platform.permit([asked, asked], stage.now)
    paid = stage.free("host")
    length = len(shelf.log)
    again = platform.permit([asked], stage.now + 60)[0]
    after_restart = reopened(shelf).permit([asked], stage.now + 120)[0]
    assert first == twin == again == after_restart
    assert (stage.free("host"), len(shelf.log)) == (paid, length)


def test_the_same_key_for_another_query_is_refused() -> None:
    _, platform, stage, license = opened()
    platform.permit([request(stage, license, 7)], stage.now)
    outcome = platform.permit([request(stage, license, 7, body=8)], stage.now)[0]
    assert isinstance(outcome, ProtocolError)
    assert outcome.rule == "P3"


def test_a_quota_ends_exactly() -> None:
    _, platform, stage, license = opened(most_inferences=3)
    asked = [request(stage, license, number) for number in range(5)]
    outcomes = platform.permit(asked, stage.now)
    assert [getattr(one, "rule", "given") for one in outcomes] == ["given"] * 3 + ["L6"] * 2


def test_too_many_at_once_are_refused_whole() -> None:
    shelf, platform, stage, license = opened()
    asked = [request(stage, license, number) for number in range(MOST_LEAVES + 1)]
    with pytest.raises(PermissionRefused):
        platform.permit(asked, stage.now)
    assert shelf.commits == []
    assert platform.permit([], stage.now) == ()


@pytest.mark.parametrize("what", ["permit", "submit"])
def test_a_failed_commit_leaves_everything_as_before(what: str) -> None:
    shelf, platform, stage, license = opened()
    before, log, note = copy.deepcopy(platform.state), list(shelf.log), platform.checkpoint
    fail_once(shelf, "before")
    command = Deposit(stage.id("platform"), stage.id("host"), 5)
    steps = {
        "permit": lambda: platform.permit([request(stage, license, 0)], stage.now),
        "submit": lambda: platform.submit(command, stage.now),
    }
    with pytest.raises(StorageError):
        steps[what]()
    assert (platform.state, shelf.log) == (before, log)
    assert platform.checkpoint == note, "what was signed in vain stays inside"
    platform.submit(command, stage.now)
    assert reopened(shelf).state == platform.state != before


def test_a_commit_in_doubt_is_found_when_asked_again() -> None:
    shelf, platform, stage, license = opened()
    before = copy.deepcopy(platform.state)
    fail_once(shelf, "after")
    with pytest.raises(StorageError):
        platform.permit([request(stage, license, 0)], stage.now)
    assert platform.state == before
    (given,) = platform.permit([request(stage, license, 0)], stage.now)
    (other,) = platform.permit([request(stage, license, 1)], stage.now)
    sequences = [Receipt.from_bytes(one).permission.sequence for one in (given, other)]
    assert sequences == [0, 1]
    assert reopened(shelf).state == platform.state


def test_who_comes_second_reads_on() -> None:
    shelf, platform, stage, license = opened()
    other = reopened(shelf)
    (first,) = platform.permit([request(stage, license, 0)], stage.now)
    (second,) = other.permit([request(stage, license, 1)], stage.now)
    (repeated,) = other.permit([request(stage, license, 0)], stage.now)
    platform.submit(Deposit(stage.id("platform"), stage.id("host"), 5), stage.now)
    assert repeated == first
    assert Receipt.from_bytes(second).permission.sequence == 1
    other.submit(signed(stage, Withdraw(stage.id("host"), 5)), stage.now)
    assert reopened(shelf).state == other.state


def test_a_forbidden_command_writes_nothing() -> None:
    shelf, platform, stage, _ = opened()
    length = len(shelf.log)
    with pytest.raises(ProtocolError) as caught:
        platform.submit(signed(stage, Deposit(stage.id("host"), stage.id("host"), 5)), stage.now)
    assert (caught.value.rule, len(shelf.log)) == ("S1", length)


def test_a_log_that_lost_its_end_is_refused() -> None:
    shelf, platform, stage, license = opened()
    shelf.outside = shelf.notes[-1]
    last, one_before = size_of(shelf.notes[-1]), size_of(shelf.notes[-2])
    assert reopened(shelf).state == platform.state
    del shelf.log[one_before:], shelf.notes[-1:]
    with pytest.raises(LedgerError) as caught:
        reopened(shelf)
    assert caught.value.reason == "size"
    assert str(last) in str(caught.value)
    with pytest.raises(LedgerError):
        platform.permit([request(stage, license, 0)], stage.now)


def test_a_log_without_the_outside_mark_is_held_to_what_others_saw() -> None:
    shelf, platform, _, _ = opened()
    seen = platform.checkpoint
    assert seen is not None
    Platform(shelf, KEYS, seen=[seen])
    del shelf.log[size_of(shelf.notes[-2]) :], shelf.notes[-1:]
    reopened(shelf)
    with pytest.raises(LedgerError) as caught:
        Platform(shelf, KEYS, seen=[seen])
    assert caught.value.reason == "size"


def test_entries_without_their_checkpoint_are_refused() -> None:
    shelf, _, _, _ = opened()
    shelf.notes.pop()
    with pytest.raises(LedgerError) as caught:
        reopened(shelf)
    assert caught.value.reason == "size"


@pytest.mark.parametrize("place", [0, 11, -1])
def test_a_changed_entry_is_refused(place: int) -> None:
    shelf, _, _, _ = opened()
    event = e.decode_event(shelf.log[place])
    changed = e.Moved(e.OUTSIDE, e.free(b"x" * 32), 1)
    shelf.log[place] = e.encode_event(changed if event != changed else event)
    with pytest.raises(LedgerError) as caught:
        reopened(shelf)
    assert caught.value.reason in ("root", "malformed")


def test_another_tree_of_the_same_size_is_refused() -> None:
    shelf, _, _, _ = opened()
    head = Checkpoint(KEYS.log.name, len(shelf.log), merkle.root([*shelf.log[:-1], b"other"]))
    other = sign_checkpoint(head, KEYS.log).note
    with pytest.raises(LedgerError) as caught:
        Platform(shelf, KEYS, seen=[other])
    assert caught.value.reason == "root"


@pytest.mark.parametrize(
    ("signer", "reason"),
    [
        (NoteSigner("example.com/log", key_of("somebody")), "signature"),
        (NoteSigner("example.com/other", key_of("log")), "origin"),
    ],
)
def test_another_logs_key_opens_nothing(signer: NoteSigner, reason: str) -> None:
    shelf, _, _, _ = opened()
    with pytest.raises(LedgerError) as caught:
        Platform(shelf, PlatformKeys(KEYS.identity, signer))
    assert caught.value.reason == reason


def test_somebody_who_is_always_first_is_given_up_on() -> None:
    shelf = Shelf()
    platform = Platform(shelf, KEYS)
    rival = Platform(shelf, KEYS)
    command = Deposit(key_of("platform").public.data, b"h" * 32, 5)

    def overtake() -> None:
        shelf.before = lambda: None
        rival.submit(command, 0)
        shelf.before = overtake

    shelf.before = overtake
    with pytest.raises(StorageError, match="other writers"):
        platform.submit(command, 0)


def test_the_stage_is_the_same_on_both() -> None:
    platform = Platform(Shelf(), KEYS)
    _, license = licensed(platform)
    assert license in platform.state.licenses


def test_a_platform_that_is_behind_reads_on_before_it_refuses() -> None:
    shelf, first, stage, license = opened()
    second = reopened(shelf)
    member = stage.id("member")
    spent = first.state.balance(e.free(member))
    first.submit(signed(stage, Withdraw(member, spent)), stage.now)
    with pytest.raises(ProtocolError):
        second.submit(signed(stage, Withdraw(member, 1)), stage.now)
    first.submit(Deposit(stage.id("platform"), member, 7), stage.now)
    second.submit(signed(stage, Withdraw(member, 7)), stage.now)
    host = stage.id("host")
    left = first.state.balance(e.free(host))
    first.catch_up()
    first.submit(signed(stage, Withdraw(host, left)), stage.now)
    second.catch_up()
    assert second.state == first.state
    first.submit(Deposit(stage.id("platform"), host, 1_000), stage.now)
    (outcome,) = second.permit([request(stage, license, 0)], stage.now)
    assert isinstance(outcome, bytes)
