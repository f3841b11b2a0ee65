"""The canonical encoding: golden bytes, round trips, and refusal of everything else."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyal.encoding import MAX_DEPTH, Value, decode, digest, encode, read_json
from loyal.errors import EncodingError

# RFC 8949, appendix A, and section 4.2.1 for the order of keys.
GOLDEN: list[tuple[Value, str]] = [
    (0, "00"),
    (23, "17"),
    (24, "1818"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("IETF", "6449455446"),
    ("\u00fc", "62c3bc"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    ({"aa": 1, "b": 2}, "a261620262616101"),
]

REFUSED = {
    "nothing": "",
    "trailing byte": "0000",
    "cut text": "6449",
    "cut list": "8201",
    "int not shortest": "1801",
    "int not shortest, 8 bytes": "1b00000000ffffffff",
    "length not shortest": "7801 61",
    "list length not shortest": "9800",
    "map length not shortest": "b800",
    "half float": "f93c00",
    "double": "fb3ff199999999999a",
    "NaN": "f97e00",
    "infinity": "f97c00",
    "undefined": "f7",
    "simple value": "f0",
    "false in two bytes": "f814",
    "indefinite bytes": "5f4101ff",
    "indefinite text": "7f6161ff",
    "indefinite list": "9f01ff",
    "indefinite map": "bf616101ff",
    "break": "ff",
    "reserved length": "1c",
    "repeated key": "a2616101616102",
    "unsorted keys": "a2616201616102",
    "keys longest first": "a262616101616202",
    "int key": "a10000",
    "bytes key": "a1416100",
    "list key": "a18000",
    "map key": "a1a000",
    "bignum": "c249010000000000000000",
    "bignum that fits": "c24101",
    "negative bignum": "c349010000000000000000",
    "date": "c11a514b67b0",
    "date of nonsense": "c0 63 616263",
    "decimal": "c48221196ab3",
    "rational by zero": "d81e820100",
    "regular expression": "d8236128",
    "address of nonsense": "d9010443010203",
    "set": "d9010280",
    "self-described": "d9d9f700",
    "unknown tag": "d9fffe00",
    "shared and referred": "d81c82 00 d81d00",
    "referring to itself": "d81c81d81d00",
    "string reference": "d90100 82 6461616161 d81900",
    "text that is not UTF-8": "61ff",
    "surrogate in UTF-8": "63eda080",
    "list of 2^63": "9b7fffffffffffffff",
    "map of 2^63": "bb7fffffffffffffff",
    "bytes of 2^63": "5b7fffffffffffffff",
    "bytes of 2^64-1": "5bffffffffffffffff",
    "deep": "81" * (MAX_DEPTH + 1) + "00",
    "very deep": "81" * 200_000 + "00",
    "very deep tags": "c1" * 200_000 + "00",
    "very deep maps": "a16161" * 100_000 + "00",
}

atoms = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary() | st.text()
values = st.recursive(
    atoms, lambda v: st.lists(v, max_size=5) | st.dictionaries(st.text(), v, max_size=5)
)


@pytest.mark.parametrize(("value", "expected"), GOLDEN, ids=[case[1][:20] for case in GOLDEN])
def test_golden_bytes(value: Value, expected: str) -> None:
    assert encode(value).hex() == expected
    assert decode(bytes.fromhex(expected)) == value


@pytest.mark.parametrize("name", REFUSED)
def test_other_bytes_are_refused(name: str) -> None:
    with pytest.raises(EncodingError) as caught:
        decode(bytes.fromhex(REFUSED[name]))
    assert caught.value.hint


def test_references_that_explode_are_refused() -> None:
    data = b"\x00"
    for _ in range(MAX_DEPTH // 2 - 1):  # each level holds the one below it twice
        data = b"\xd8\x1c\x82" + data + b"\xd8\x1d\x00"
    with pytest.raises(EncodingError):
        decode(data)


@given(values)
def test_round_trip(value: Value) -> None:
    assert decode(encode(value)) == value


@given(values.filter(lambda v: not isinstance(v, bool)), st.binary(min_size=1, max_size=3))
def test_no_prefix_and_no_extension_is_accepted(value: Value, more: bytes) -> None:
    data = encode(value)
    for wrong in (data + more, data[:-1]):
        with pytest.raises(EncodingError):
            decode(wrong)


@settings(max_examples=2000)
@given(st.binary(max_size=60))
def test_random_bytes_decode_canonically_or_are_refused(data: bytes) -> None:
    try:
        value = decode(data)
    except EncodingError:
        return
    assert encode(value) == data


@settings(max_examples=500)
@given(values, st.integers(0), st.integers(1, 255))
def test_changed_bytes_decode_canonically_or_are_refused(
    value: Value, place: int, change: int
) -> None:
    data = bytearray(encode(value))
    data[place % len(data)] ^= change
    try:
        other = decode(bytes(data))
    except EncodingError:
        return
    assert encode(other) == data
    assert encode(other) != encode(value)


@given(st.dictionaries(st.text(), st.integers(0, 9)))
def test_keys_are_in_the_bytewise_order_of_their_encodings(value: dict[str, int]) -> None:
    pairs = sorted(encode(key) + encode(item) for key, item in value.items())
    length = encode([0] * len(value))[: -len(value) or None]
    assert encode(value) == bytes([length[0] + 0x20]) + length[1:] + b"".join(pairs)
    assert encode(dict(reversed(list(value.items())))) == encode(value)


def test_a_tuple_is_a_list() -> None:
    assert encode((1, ("a",))) == encode([1, ["a"]])


class Count(int):
    """An int that is not one."""


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        2**64,
        -(2**64) - 1,
        {1: 2},
        {b"a": 1},
        {None: 1},
        "\ud800",
        {"\ud800": 1},
        {1, 2},
        bytearray(b"a"),
        object(),
        Count(1),
        [[0.5]],
        {"a": {"b": 0.5}},
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(EncodingError):
        encode(value)  # type: ignore[arg-type]


def test_depth() -> None:
    value: Value = 0
    for _ in range(MAX_DEPTH):
        value = [value]
    assert decode(encode(value)) == value
    with pytest.raises(EncodingError):
        encode([value])
    loop: list[Value] = []
    loop.append(loop)
    with pytest.raises(EncodingError):
        encode(loop)


@pytest.mark.parametrize("data", ["00", None, 7, [0]])
def test_what_is_not_bytes_is_refused(data: object) -> None:
    with pytest.raises(EncodingError):
        decode(data)  # type: ignore[arg-type]


def test_digest_is_pinned() -> None:
    framed = b"\x00\x0cloyal test 1" + bytes.fromhex("a1616182014178")
    assert digest({"a": [1, b"x"]}, "loyal test 1") == hashlib.sha256(framed).digest()


def test_digest_keeps_purposes_and_values_apart() -> None:
    seen = {digest(value, purpose) for value in (0, "", b"", [0]) for purpose in ("a", "aa", "b")}
    assert len(seen) == 12
    assert digest(0, "a") == digest(0, "a")


@pytest.mark.parametrize("purpose", ["", "x" * 65_536])
def test_digest_needs_a_purpose(purpose: str) -> None:
    with pytest.raises(EncodingError):
        digest(0, purpose)


@pytest.mark.parametrize(
    "text", ["NaN", "[-Infinity]", '{"a": 1, "a": 2}', '[{"b": {"c": 1, "c": 1}}]', "{", ""]
)
def test_json_that_readers_take_differently_is_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any of the parser's)
        read_json(text)


def test_json_is_read() -> None:
    assert read_json('{"a": [1, 2.5, null], "b": {"a": "x"}}') == {
        "a": [1, 2.5, None],
        "b": {"a": "x"},
    }
