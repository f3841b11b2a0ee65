"""`loyal witness run`: it cosigns what only grew, remembers it on disk, and keeps evidence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from actors_stage import StageHost, court
from court_server import CourtServer, serving
from log_stage import witness_signer
from shelf import KEYS
from stage import Run
from test_rounds import said, watching

from loyal.app.witness_file import Watcher, WitnessFile
from loyal.errors import LedgerError, StorageError
from loyal.protocol import ForkEvidence, Ledger, SignedNote, VerifierKey, evidence
from loyal.protocol.checkpoint import sign_checkpoint
from loyal.protocol.witness import witnessed


@pytest.fixture
def served() -> Iterator[CourtServer]:
    here = court(int(time.time()) - 60)
    with serving(here, StageHost(here, "signed")) as server:
        yield server


def call(served: CourtServer, run: Run, folder: Path, *more: object):  # type: ignore[no-untyped-def]
    key = folder / "witness.key"
    key.write_text("07" * 32)
    key.chmod(0o600)
    return run(
        "witness", "run", "--log", served.platform, "--key", key, "--name", "example.com/w",
        "--state", folder / "state", "--once", "--json", *more,
    )  # fmt: skip


def test_it_cosigns_what_grew_and_anybody_can_check_it(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    first = call(served, run, tmp_path)
    assert first.code == 0, first.err
    assert first.fields["new"]
    assert not call(served, run, tmp_path).fields["new"]
    served.court.draw()
    second = call(served, run, tmp_path)
    assert second.fields["size"] > first.fields["size"]
    note = SignedNote.from_bytes(Path(second.fields["note"]).read_bytes())
    key = VerifierKey.from_text(second.fields["witness"])
    found = witnessed(note, KEYS.log.verifier, [key], 1).checkpoint
    assert found.size == len(served.court.shelf.log)


def test_a_log_that_goes_back_is_refused(served: CourtServer, run: Run, tmp_path: Path) -> None:
    known = call(served, run, tmp_path).fields["size"]
    served.court.shelf.notes.pop()
    done = call(served, run, tmp_path)
    assert done.code == 1
    assert str(known) in done.err
    served.court.shelf.notes.clear()
    assert call(served, run, tmp_path).code == 1


def fork(served: CourtServer, more: int) -> None:
    """The log's last entry becomes another one, and `more` follow; all of it is signed."""
    shelf = served.court.shelf
    shelf.log[-1] = shelf.log[0]
    shelf.log += [shelf.log[1]] * more
    head = Ledger(KEYS.log.name, shelf.log).checkpoint()
    shelf.notes.append(sign_checkpoint(head, KEYS.log).note.to_bytes())


@pytest.mark.parametrize("more", [0, 1, 5])
def test_a_fork_leaves_evidence(served: CourtServer, run: Run, tmp_path: Path, more: int) -> None:
    size = call(served, run, tmp_path).fields["size"]
    before = (tmp_path / "state").read_bytes()
    fork(served, more)
    done = call(served, run, tmp_path)
    assert done.code == 1
    assert "forked" in done.err
    data = (tmp_path / f"state.fork-{size}-{size + more}").read_bytes()
    found = evidence.verify_evidence(ForkEvidence.from_bytes(data), KEYS.log.verifier)
    assert (found.older.size, found.newer.size) == (size, size + more)
    assert (tmp_path / "state").read_bytes() == before


def test_a_fork_after_a_power_of_two_is_proven_by_the_entries(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    shelf = served.court.shelf
    del shelf.log[16:]
    head = Ledger(KEYS.log.name, shelf.log).checkpoint()
    shelf.notes.append(sign_checkpoint(head, KEYS.log).note.to_bytes())
    assert call(served, run, tmp_path).fields["size"] == 16
    fork(served, 3)
    assert "forked" in call(served, run, tmp_path).err
    data = (tmp_path / "state.fork-16-19").read_bytes()
    evidence.verify_evidence(ForkEvidence.from_bytes(data), KEYS.log.verifier)


def test_a_damaged_state_is_no_empty_one(served: CourtServer, run: Run, tmp_path: Path) -> None:
    call(served, run, tmp_path)
    state = tmp_path / "state"
    whole = state.read_bytes()
    for damaged in (b"", whole[:-1], whole[:40] + b"x" + whole[41:]):
        state.write_bytes(damaged)
        done = call(served, run, tmp_path)
        assert done.code == 1
        assert state.read_bytes() == damaged
    state.write_bytes(whole)
    assert call(served, run, tmp_path).code == 0


def test_the_first_key_of_a_log_stays(served: CourtServer, run: Run, tmp_path: Path) -> None:
    from log_stage import log_signer

    other = log_signer(KEYS.log.name)
    refused = call(served, run, tmp_path, "--log-key", str(other.verifier))
    assert refused.code == 1
    assert not (tmp_path / "state").exists()
    call(served, run, tmp_path)
    head = Ledger(KEYS.log.name, served.court.shelf.log).checkpoint()
    served.court.shelf.notes.append(sign_checkpoint(head, other).note.to_bytes())
    assert call(served, run, tmp_path).code == 1


class Scripted:
    """A log that says what it is told to."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def checkpoint(self) -> bytes | None:
        return sign_checkpoint(self.ledger.checkpoint(), KEYS.log).note.to_bytes()

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        return (bytes(32),)

    async def entries(self, start: int, stop: int) -> list[bytes]:
        return []


def test_nothing_is_given_away_that_is_not_remembered(tmp_path: Path) -> None:
    async def key() -> VerifierKey:
        return KEYS.log.verifier

    log = Scripted(Ledger(KEYS.log.name, [b"one", b"two"]))
    gone = WitnessFile(tmp_path / "no folder" / "state")
    with pytest.raises(StorageError):
        asyncio.run(Watcher(witness_signer("w"), log, gone, key).look(1_800_000_000))
    assert list(tmp_path.iterdir()) == []
    file = WitnessFile(tmp_path / "state")
    watcher = Watcher(witness_signer("w"), log, file, key)
    assert asyncio.run(watcher.look(1_800_000_000)).new
    log.ledger = log.ledger.append(b"three")
    with pytest.raises(LedgerError) as caught:
        asyncio.run(watcher.look(1_800_000_001))
    assert caught.value.reason == "root"
    assert "forked" not in str(caught.value), "a proof made up by anybody is no evidence"
    assert [one.name for one in tmp_path.iterdir() if "fork" in one.name] == []


def test_two_witnesses_never_use_one_file(served: CourtServer, run: Run, tmp_path: Path) -> None:
    process = watching(served.platform, tmp_path)
    try:
        said(process, "cosigned")
        before = (tmp_path / "state").read_bytes()
        served.court.draw()
        linked = tmp_path / "linked"
        linked.symlink_to(tmp_path / "state")
        for state in (tmp_path / "state", linked):
            done = call(served, run, tmp_path, "--state", state)
            assert (done.code, "another witness uses" in done.err) == (1, True)
            assert "Traceback" not in done.err
        process.kill()
        process.communicate()
        assert call(served, run, tmp_path).code == 0
        assert (tmp_path / "state").read_bytes() != before
    finally:
        process.kill()
        process.communicate()


def test_a_look_holds_the_file_by_itself(tmp_path: Path) -> None:
    async def key() -> VerifierKey:
        return KEYS.log.verifier

    log = Scripted(Ledger(KEYS.log.name, [b"one", b"two"]))
    first, second = (
        Watcher(witness_signer("w"), log, WitnessFile(tmp_path / "state"), key) for _ in range(2)
    )
    with first.file.held():
        with first.file.held():
            pass
        with pytest.raises(StorageError, match="another witness"):
            asyncio.run(second.look(1_800_000_000))
        assert not (tmp_path / "state").exists()
        assert asyncio.run(first.look(1_800_000_000)).new
    assert not asyncio.run(second.look(1_800_000_000)).new
