"""A reader's copy of the log: what it folds was signed, and a changed or shorter log is refused."""

from __future__ import annotations

import pytest
from actors_stage import Court, court
from log_stage import log_signer
from shelf import KEYS

from loyal.errors import LedgerError
from loyal.protocol import Checkpoint, Ledger, Parameters
from loyal.protocol.checkpoint import sign_checkpoint
from loyal.protocol.events import LicenseEnded, VerdictGiven, encode_event
from loyal.roles.mirror import Mirror


def mirror(here: Court) -> Mirror:
    return Mirror(here.stage.id("platform"), KEYS.log.verifier, Parameters())


def read(one: Mirror, here: Court) -> None:
    head = one.opened(here.shelf.notes[-1])
    one.take(head, here.shelf.log[one.size : head.size])


def test_a_mirror_is_the_platforms_state_in_any_number_of_steps() -> None:
    here = court()
    one = mirror(here)
    read(one, here)
    for number in range(2):
        here.stage.probe(here.license, number)
        read(one, here)
        assert one.state == here.state
    read(one, here)
    assert one.size == len(here.shelf.log)


def test_a_changed_or_missing_entry_is_refused_and_nothing_is_folded() -> None:
    here = court()
    changed = [*here.shelf.log]
    changed[3] = changed[4]
    for entries in (changed, here.shelf.log[:-1], [*here.shelf.log, here.shelf.log[0]]):
        one = mirror(here)
        with pytest.raises(LedgerError) as caught:
            one.take(one.opened(here.shelf.notes[-1]), entries)
        assert caught.value.reason == "root"
        assert one.size == one.state.length == 0


def test_a_log_that_goes_back_or_is_another_is_refused() -> None:
    here = court()
    one = mirror(here)
    read(one, here)
    with pytest.raises(LedgerError) as caught:
        one.opened(here.shelf.notes[-2])
    assert caught.value.reason == "size"
    forked = Checkpoint(KEYS.log.name, one.size, bytes(32))
    with pytest.raises(LedgerError) as caught:
        one.opened(sign_checkpoint(forked, KEYS.log).note.to_bytes())
    assert caught.value.reason == "root"
    stranger = sign_checkpoint(forked, log_signer(KEYS.log.name)).note.to_bytes()
    with pytest.raises(LedgerError) as caught:
        mirror(here).opened(stranger)
    assert caught.value.reason == "signature"


def test_an_entry_that_no_rule_wrote_is_refused() -> None:
    here = court()
    for event in (LicenseEnded(here.license), VerdictGiven(bytes(32), bytes(32), True)):
        bad = [*here.shelf.log, encode_event(event)]
        head = Ledger(KEYS.log.name, bad).checkpoint()
        with pytest.raises(LedgerError) as caught:
            mirror(here).take(head, bad)
        assert caught.value.reason == "rules"


def test_a_log_that_ends_inside_a_command_is_refused() -> None:
    here = court()
    cut = here.shelf.log[:-1]
    head = Ledger(KEYS.log.name, cut).checkpoint()
    with pytest.raises(LedgerError) as caught:
        mirror(here).take(head, cut)
    assert caught.value.reason == "rules"


def test_beacons_of_the_log_come_after_the_set_and_before_the_model() -> None:
    here = court()
    one = mirror(here)
    read(one, here)
    assert one.drew_between(here.license, here.custodian.beacon(here.license))
    for note in (here.shelf.notes[0], here.shelf.notes[-1]):
        assert not one.drew_between(here.license, one_root(note))
    assert not one.drew_between(bytes(32), here.custodian.beacon(here.license))


def one_root(note: bytes) -> bytes:
    return Checkpoint.from_text(note.decode().split("\n\n")[0] + "\n").root
