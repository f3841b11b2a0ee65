"""The ledger as a value: its roots and proofs against the plain tree, and its branches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_stage import LOG_NAME, honest, numbered

from loyal import merkle
from loyal.errors import UsageError
from loyal.merkle import EMPTY_ROOT
from loyal.protocol import Ledger
from loyal.protocol.ledger import MAX_ENTRY_BYTES


@given(st.lists(st.lists(st.binary(max_size=8), max_size=6), max_size=8), st.data())
def test_any_way_of_appending_gives_the_plain_tree(
    batches: list[list[bytes]], data: st.DataObject
) -> None:
    grown, entries = Ledger(LOG_NAME), []
    for batch in batches:
        grown = grown.append(*batch)
        entries += batch
    assert [grown[index] for index in range(len(grown))] == entries
    size = data.draw(st.integers(0, len(entries)))
    old = data.draw(st.integers(0, size))
    assert grown.root(size) == merkle.root(entries[:size]) == grown.frontier(size).root()
    assert list(grown.consistency_proof(old, size)) == merkle.consistency_proof(entries[:size], old)
    head, earlier = grown.checkpoint(size), grown.checkpoint(old)
    assert (head.origin, head.size, head.root) == (LOG_NAME, size, merkle.root(entries[:size]))
    assert merkle.verify_consistency(
        earlier.root, head.root, old, size, grown.consistency_proof(old, size)
    )
    for index in range(size):
        path = grown.inclusion_proof(index, size)
        assert merkle.verify_inclusion(head.root, entries[index], index, size, path)


@given(st.lists(st.tuples(st.integers(0, 30), st.binary(max_size=2)), max_size=30))
def test_every_ledger_stays_as_it_was(steps: list[tuple[int, bytes]]) -> None:
    made: list[tuple[Ledger, list[bytes]]] = [(Ledger(LOG_NAME), [])]
    for choice, entry in steps:
        ledger, entries = made[choice % len(made)]
        made.append((ledger.append(entry), [*entries, entry]))
    for ledger, entries in made:
        assert [ledger[index] for index in range(len(ledger))] == entries
        assert ledger.root() == merkle.root(entries)


def test_appending_hashes_the_new_entries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, hashed = honest(1_000), []
    leaf_hash, node_hash = merkle.leaf_hash, merkle.node_hash
    monkeypatch.setattr(merkle, "leaf_hash", lambda x: hashed.append(1) or leaf_hash(x))
    monkeypatch.setattr(merkle, "node_hash", lambda x, y: hashed.append(1) or node_hash(x, y))
    longer = ledger.append(b"one more")
    root = longer.root()
    assert 0 < len(hashed) <= 2 * 10 + 1
    assert root == merkle.root([*numbered(1_000), b"one more"])


def test_the_empty_ledger() -> None:
    empty = Ledger(LOG_NAME)
    assert (len(empty), empty.root(), empty.checkpoint().size) == (0, EMPTY_ROOT, 0)
    assert empty.append() is not empty
    assert empty.append().root() == EMPTY_ROOT


def test_which_checkpoints_it_holds() -> None:
    ledger, other = honest(5), honest(3).append(b"another", b"way")
    assert all(ledger.holds(honest(size).checkpoint()) for size in range(6))
    assert not ledger.holds(honest(6).checkpoint())
    assert not ledger.holds(other.checkpoint())
    assert ledger.holds(other.checkpoint(3))
    assert not ledger.holds(Ledger("example.com/other", numbered(5)).checkpoint())


@pytest.mark.parametrize("entry", ["text", None, bytearray(b"x"), b"x" * (MAX_ENTRY_BYTES + 1)])
def test_what_is_no_entry_leaves_nothing_behind(entry: object) -> None:
    ledger = honest(2)
    with pytest.raises(UsageError):
        ledger.append(b"good", entry)  # type: ignore[arg-type]
    assert ledger.append(b"x" * MAX_ENTRY_BYTES)[2] == b"x" * MAX_ENTRY_BYTES


@pytest.mark.parametrize("size", [-1, 3])
def test_no_answer_for_a_size_or_index_it_never_had(size: int) -> None:
    # The tree behind is longer: a shorter value must not see it.
    short = honest(2)
    short.append(b"third", b"fourth")
    for ask in (
        short.root,
        short.checkpoint,
        short.frontier,
        short.consistency_proof,
        short.__getitem__,
        lambda size: short.consistency_proof(0, size),
        lambda size: short.inclusion_proof(0, size),
        short.inclusion_proof,
    ):
        with pytest.raises(UsageError):
            ask(size)


def test_repr_shows_no_entry() -> None:
    assert "entry 0" not in repr(honest(1))
    assert LOG_NAME in repr(honest(1))
