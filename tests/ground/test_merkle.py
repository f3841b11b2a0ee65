"""The Merkle tree against published vectors, the definitions of RFC 6962, and tampering."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal import merkle
from loyal.errors import UsageError

VECTORS = Path(__file__).parents[1] / "vectors"
GOLDEN = json.loads((VECTORS / "merkle.json").read_text())
LEAVES = [bytes.fromhex(leaf) for leaf in GOLDEN["leaves"]]
ROOTS = [bytes.fromhex(root) for root in GOLDEN["roots"]]

# Published with the reference implementation of Certificate Transparency.
PUBLISHED_ROOT = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
PUBLISHED_INCLUSION_5_OF_8 = [
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]
PUBLISHED_CONSISTENCY_6_TO_8 = [
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]


def distinct(size: int) -> list[bytes]:
    return [index.to_bytes(3, "big") for index in range(size)]


def flipped(data: bytes, bit: int) -> bytes:
    position = bit % (8 * len(data))
    changed = bytearray(data)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


def tampered(path: list[bytes], bit: int) -> Iterator[list[bytes]]:
    """A path with each element in turn changed by one bit or dropped, with one more, reversed."""
    for place in range(len(path)):
        yield [*path[:place], flipped(path[place], bit), *path[place + 1 :]]
        yield path[:place] + path[place + 1 :]
    yield [*path, merkle.leaf_hash(b"more")]
    yield [merkle.leaf_hash(b"more"), *path]
    if len(path) > 1:
        yield path[::-1]


def test_published_vectors() -> None:
    assert merkle.root(LEAVES).hex() == PUBLISHED_ROOT
    assert [h.hex() for h in merkle.inclusion_proof(LEAVES, 5)] == PUBLISHED_INCLUSION_5_OF_8
    assert [h.hex() for h in merkle.consistency_proof(LEAVES, 6)] == PUBLISHED_CONSISTENCY_6_TO_8


def test_golden_file_is_what_its_generator_writes() -> None:
    generate = runpy.run_path(str(VECTORS / "make_merkle.py"))["generate"]
    assert (VECTORS / "merkle.json").read_text() == generate() + "\n"


def test_golden_roots() -> None:
    assert [merkle.root(LEAVES[:size]) for size in range(len(LEAVES) + 1)] == ROOTS
    assert ROOTS[0] == merkle.EMPTY_ROOT


@pytest.mark.parametrize("case", GOLDEN["inclusion"], ids=lambda c: f"{c['index']}of{c['size']}")
def test_golden_inclusion(case: dict[str, object]) -> None:
    size, index, path = case["size"], case["index"], [bytes.fromhex(h) for h in case["path"]]
    assert merkle.inclusion_proof(LEAVES[:size], index) == path
    assert merkle.verify_inclusion(ROOTS[size], LEAVES[index], index, size, path)
    for wrong in tampered(path, bit=7):
        assert not merkle.verify_inclusion(ROOTS[size], LEAVES[index], index, size, wrong)


@pytest.mark.parametrize("case", GOLDEN["consistency"], ids=lambda c: f"{c['old']}to{c['new']}")
def test_golden_consistency(case: dict[str, object]) -> None:
    old, new, path = case["old"], case["new"], [bytes.fromhex(h) for h in case["path"]]
    assert merkle.consistency_proof(LEAVES[:new], old) == path
    assert merkle.verify_consistency(ROOTS[old], ROOTS[new], old, new, path)
    for wrong in tampered(path, bit=7):
        assert not merkle.verify_consistency(ROOTS[old], ROOTS[new], old, new, wrong)


@given(st.data())
def test_inclusion_holds_for_the_leaf_and_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 300))
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(-1, size))
    bit = data.draw(st.integers(0, 255))
    leaves = distinct(size)
    root, path = merkle.root(leaves), merkle.inclusion_proof(leaves, index)
    assert merkle.verify_inclusion(root, leaves[index], index, size, path)
    assert len(path) <= (size - 1).bit_length()

    assert not merkle.verify_inclusion(root, b"another", index, size, path)
    assert not merkle.verify_inclusion(flipped(root, bit), leaves[index], index, size, path)
    if other != index:
        assert not merkle.verify_inclusion(root, leaves[index], other, size, path)
    for wrong in tampered(path, bit):
        assert not merkle.verify_inclusion(root, leaves[index], index, size, wrong)


@given(st.data())
def test_consistency_holds_for_the_prefix_and_nothing_else(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 300))
    old = data.draw(st.integers(1, new - 1))
    changed, bit = data.draw(st.integers(0, old - 1)), data.draw(st.integers(0, 255))
    leaves = distinct(new)
    first, second = merkle.root(leaves[:old]), merkle.root(leaves)
    path = merkle.consistency_proof(leaves, old)
    assert merkle.verify_consistency(first, second, old, new, path)

    rewritten = merkle.root([*leaves[:changed], b"rewritten", *leaves[changed + 1 : old]])
    assert not merkle.verify_consistency(rewritten, second, old, new, path)
    assert not merkle.verify_consistency(first, flipped(second, bit), old, new, path)
    assert not merkle.verify_consistency(second, first, new, old, path)
    for wrong in tampered(path, bit):
        assert not merkle.verify_consistency(first, second, old, new, wrong)


@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 80))
def test_a_grown_tree_proves_its_earlier_sizes(size: int, early: int, index: int) -> None:
    early = min(early, size)
    leaves = distinct(size)
    tree = merkle.Tree()
    assert [tree.append(leaf) for leaf in leaves] == list(range(size))
    assert len(tree) == size
    assert tree.root(early) == merkle.root(leaves[:early])
    assert tree.consistency_proof(early) == merkle.consistency_proof(leaves, early)
    if index < early:
        assert tree.inclusion_proof(index, early) == merkle.inclusion_proof(leaves[:early], index)


@given(
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.integers(-(2**70), 2**70),
    st.integers(-(2**70), 2**70),
    st.lists(
        st.binary(min_size=32, max_size=32) | st.binary() | st.text() | st.none(), max_size=80
    ),
)
def test_nonsense_is_false_not_an_exception(
    first: bytes, second: bytes, low: int, high: int, path: list[bytes]
) -> None:
    assert not merkle.verify_inclusion(first, second, low, high, path)
    if not (low == high and first == second):
        assert not merkle.verify_consistency(first, second, low, high, path)


def test_the_empty_tree_begins_every_tree() -> None:
    root = merkle.root(LEAVES)
    assert merkle.verify_consistency(merkle.EMPTY_ROOT, root, 0, 8, [])
    assert not merkle.verify_consistency(root, root, 0, 8, [])
    assert not merkle.verify_consistency(merkle.EMPTY_ROOT, root, 0, 8, [root])


def test_a_node_does_not_pass_for_a_leaf() -> None:
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.root([left + right]) != merkle.root([b"a", b"b"])


@pytest.mark.parametrize("index", [-1, 8])
def test_no_proof_of_what_is_not_there(index: int) -> None:
    with pytest.raises(UsageError):
        merkle.inclusion_proof(LEAVES, index)
    with pytest.raises(UsageError):
        merkle.consistency_proof(LEAVES, index + 1 if index > 0 else index)
    with pytest.raises(UsageError):
        merkle.Tree(LEAVES).root(index + 1 if index > 0 else index)


@given(st.integers(0, 300))
def test_a_frontier_has_the_plain_root_at_every_size(size: int) -> None:
    frontier = merkle.Frontier()
    for leaf in distinct(size):
        frontier = frontier.append(leaf)
    assert frontier.root() == merkle.root(distinct(size))
    assert frontier == merkle.Tree(distinct(300)).frontier(size)
    assert len(frontier.nodes) == size.bit_count()


def test_a_frontier_has_the_golden_roots_and_stays_as_it_was() -> None:
    frontiers = [merkle.Frontier()]
    for leaf in LEAVES:
        frontiers.append(frontiers[-1].append(leaf))
    assert [one.root() for one in frontiers] == ROOTS


@pytest.mark.parametrize(
    ("size", "nodes"), [(-1, ()), (1, ()), (0, (bytes(32),)), (2, (bytes(31),)), (3, (bytes(32),))]
)
def test_no_frontier_of_another_shape(size: int, nodes: tuple[bytes, ...]) -> None:
    with pytest.raises(UsageError):
        merkle.Frontier(size, nodes)


@given(st.data())
def test_a_written_out_proof_leads_to_both_roots(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 300))
    old = data.draw(st.integers(1, new - 1))
    leaves = distinct(new)
    first, second = merkle.root(leaves[:old]), merkle.root(leaves)
    path = merkle.consistency_proof(leaves, old)
    nodes = [first, *path] if merkle.is_complete(old) else path
    assert merkle.consistency_roots(old, new, nodes) == merkle.Roots(first, second)

    for wrong in tampered(nodes, data.draw(st.integers(0, 255))):
        found = merkle.consistency_roots(old, new, wrong)
        assert found is None or found.new != second
    for wrong in (nodes[:-1], nodes[1:], [*nodes, first], []):
        assert merkle.consistency_roots(old, new, wrong) is None
    for sizes in ((0, new), (new, new), (new, old)):
        assert merkle.consistency_roots(*sizes, nodes) is None


@pytest.mark.parametrize("size", [*range(70), 255, 256, 257, 1000])
def test_all_proofs_at_once_are_the_proofs_one_by_one(size: int) -> None:
    tree = merkle.Tree(distinct(size))
    assert tree.inclusion_proofs() == [tree.inclusion_proof(index) for index in range(size)]


@given(st.lists(st.binary(max_size=8), max_size=40), st.lists(st.binary(max_size=8), max_size=40))
def test_a_frontier_extended_is_the_frontier_of_all(old: list[bytes], new: list[bytes]) -> None:
    start = merkle.Frontier().extend(old)
    assert start.extend(new) == merkle.Tree([*old, *new]).frontier()
