"""Codes out of a secret: golden vectors, a derivation written anew, laws, and hosts' parts."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from loyal import encoding
from loyal.errors import UsageError
from loyal.fingerprints import FingerprintSet
from loyal.fingerprints.codes import ADDITIVE, CUT, ONE, TracingCode, code_of, host_set

SECRET = bytes(range(32))

MakeSet = Callable[..., FingerprintSet]

ARCSINE_BIASES = [16177, 50468, 25911, 63416]
ARCSINE_ROW = "b12dfff5abce3be8"
ADDITIVE_ROW = "2008c0ac00202000"
COMMITMENT = "c0f6f63221f9a3b03663be7f6754d4fe2fa80515664af2c88f97757879b37d43"


def stream(what: list[str | int], size: int) -> bytes:
    """The module's definition, without the module."""
    framed = len(b"loyal tracing code v1").to_bytes(2, "big") + b"loyal tracing code v1"
    key = hmac.new(SECRET, framed + encoding.encode(what), "sha256").digest()
    return hashlib.shake_256(key).digest(size)


def biases(count: int) -> list[int]:
    """The arcsine biases in Python's own integers, one pair after the other."""
    found: list[int] = []
    data = stream(["arcsine", "biases"], 8 * (8 * count + 64))
    for start in range(0, len(data), 8):
        x = int.from_bytes(data[start : start + 4], "little") >> 8
        y = int.from_bytes(data[start + 4 : start + 8], "little") >> 8
        if 0 < x * x + y * y < 2**48:
            bias = (x * x << 16) // (x * x + y * y)
            found += [bias] if CUT <= bias <= ONE - CUT else []
    return found[:count]


def test_the_derivation_is_what_the_module_writes_down() -> None:
    code = TracingCode(SECRET, 40, 100)
    expected = biases(100)
    assert code.biases.tolist() == expected
    for host in (0, 1, 39):
        data = stream(["arcsine", "row", host], 200)
        words = [int.from_bytes(data[i : i + 2], "little") for i in range(0, 200, 2)]
        assert code.row(host).tolist() == [u < t for u, t in zip(words, expected, strict=True)]


def test_golden_vectors() -> None:
    arcsine, additive = TracingCode(SECRET, 40, 64), TracingCode(SECRET, 40, 64, "additive")
    assert arcsine.biases[:4].tolist() == ARCSINE_BIASES
    assert np.packbits(arcsine.row(7)).tobytes().hex() == ARCSINE_ROW
    assert np.packbits(additive.row(7)).tobytes().hex() == ADDITIVE_ROW
    assert arcsine.commitment.hex() == COMMITMENT


def test_rows_come_one_at_a_time_and_a_longer_code_begins_with_the_shorter() -> None:
    short, long = TracingCode(SECRET, 10, 50), TracingCode(SECRET, 2000, 900)
    rows = short.matrix(range(2, 10))
    assert rows.shape == (8, 50)
    for place, host in enumerate(range(2, 10)):
        assert (rows[place] == short.row(host)).all()
        assert (long.row(host)[:50] == short.row(host)).all()
    assert (long.biases[:50] == short.biases).all()


def test_the_commitment_fixes_every_part() -> None:
    code = TracingCode(SECRET, 10, 50)
    others = [
        replace(code, secret=bytes(32)),
        replace(code, hosts=11),
        replace(code, length=51),
        replace(code, scheme="additive"),
    ]
    assert len({one.commitment for one in (code, *others)}) == 5
    assert SECRET.hex() not in repr(code)


def test_biases_follow_the_cut_arcsine_law() -> None:
    found = np.sort(TracingCode(SECRET, 1, 20_000).biases / ONE)
    assert found[0] >= CUT / ONE
    assert found[-1] <= 1 - CUT / ONE
    angle = np.arcsin(np.sqrt(found))
    low = math.asin(math.sqrt(CUT / ONE))
    law = (angle - low) / (math.pi / 2 - 2 * low)
    steps = np.arange(1, 20_001) / 20_000
    # Dvoretzky-Kiefer-Wolfowitz: a gap of 0.02 comes by chance once in 4e6 secrets; this is one.
    assert np.abs(law - steps).max() < 0.02


def test_bits_keep_to_their_biases() -> None:
    code = TracingCode(SECRET, 3000, 200)
    share = code.matrix(range(3000)).mean(axis=0)
    assert np.abs(share - code.biases / ONE).max() < 0.06  # Hoeffding: 2 * 200 * e^-21.6 < 1e-6
    plain = TracingCode(SECRET, 3000, 200, "additive").matrix(range(3000)).mean()
    assert abs(plain - ADDITIVE / ONE) < 0.005


@pytest.mark.parametrize(
    ("secret", "hosts", "length", "scheme"),
    [
        (bytes(31), 1, 1, "arcsine"),
        (SECRET, 0, 1, "arcsine"),
        (SECRET, 1, 0, "arcsine"),
        (SECRET, 1, 1 << 17, "arcsine"),
        (SECRET, 1, 1, "tardos"),
    ],
)
def test_what_is_no_code_is_refused(secret: bytes, hosts: int, length: int, scheme: str) -> None:
    with pytest.raises(UsageError):
        TracingCode(secret, hosts, length, scheme)  # type: ignore[arg-type]


def test_a_host_number_out_of_range_is_refused() -> None:
    code = TracingCode(SECRET, 10, 50)
    for host in (-1, 10):
        with pytest.raises(UsageError, match="no such host"):
            code.row(host)


def test_a_part_is_the_hosts_row_of_the_set(make_set: MakeSet) -> None:
    whole = make_set(60, kind="tracing")
    code = code_of(whole)
    assert (code.hosts, code.length, code.scheme) == (2048, 60, "arcsine")
    for host in (0, 2047):
        part = host_set(whole, host)
        carried = [
            one.key for one, bit in zip(whole.fingerprints, code.row(host), strict=True) if bit
        ]
        assert [one.key for one in part.fingerprints] == carried
        assert part.owner_secret == b""
        assert part.settings["family_root"] == whole.root.hex()
        assert all(one.picks for one in part.fingerprints)
        with pytest.raises(UsageError, match="one host's part"):
            code_of(part)


def test_the_code_hangs_on_owner_root_and_beacon(make_set: MakeSet) -> None:
    first, second = make_set(60, kind="tracing"), make_set(60, kind="tracing")
    assert code_of(first).secret != code_of(second).secret
    assert code_of(first).secret == code_of(replace(first, created=1)).secret
    fewer = replace(first, settings={"tracing_hosts": 3, "tracing_scheme": "additive"})
    assert (code_of(fewer).hosts, code_of(fewer).scheme) == (3, "additive")


def test_other_sets_have_no_code(make_set: MakeSet) -> None:
    with pytest.raises(UsageError, match="names no colluders"):
        code_of(make_set(5, kind="usage"))
    with pytest.raises(UsageError, match="not drawn"):
        code_of(make_set(5, kind="tracing", drawn=False))
    with pytest.raises(UsageError) as refused:
        host_set(make_set(5, kind="tracing"), 1 << 30)
    assert "planted-key" not in str(refused.value) + refused.value.hint
