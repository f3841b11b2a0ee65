"""API keys on disk, and token buckets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.app.access import MOST_BUCKETS, ApiKeys, Buckets, Rate, asker_of
from loyal.errors import StorageError, UsageError

HOST, OTHER = b"h" * 32, b"o" * 32


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "keys")
    assert (len(keys), keys.host_of("x")) == (0, None)
    first, second = keys.draw(HOST), keys.draw(HOST)
    third = keys.draw(OTHER)
    assert [keys.host_of(one) for one in (first, second, third)] == [HOST, HOST, OTHER]
    for wrong in ("", first[:-1], first + "x", "\udc80", "0" * 64):
        assert keys.host_of(wrong) is None
    text = (tmp_path / "keys").read_text()
    assert not [one for one in (first, second, third) if one.removeprefix("loyal-") in text]
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    assert first not in repr(keys)


def test_another_process_sees_a_change_at_once(tmp_path: Path) -> None:
    server, operator = ApiKeys(tmp_path / "keys"), ApiKeys(tmp_path / "keys")
    key = operator.draw(HOST)
    assert server.host_of(key) == HOST
    later = operator.draw(OTHER)
    assert server.host_of(later) == OTHER
    assert operator.revoke(HOST) == 1
    assert (server.host_of(key), server.host_of(later)) == (None, OTHER)
    os.unlink(tmp_path / "keys")
    assert server.host_of(later) is None


@pytest.mark.parametrize("line", ["nonsense", "ab cd", f"{'ab' * 32}", f"{'ab' * 32} {'cd' * 31}"])
def test_a_damaged_file_is_said_and_lets_nobody_in(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(f"# hosts\n\n{line}\n")
    with pytest.raises(StorageError, match="line 3"):
        ApiKeys(tmp_path / "keys").host_of("x")


class Clock:
    """Seconds, moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 12)), max_size=60))
def test_nobody_gets_more_than_burst_and_rate(steps: list[tuple[float, int]]) -> None:
    clock, taken = Clock(), 0
    buckets = Buckets(Rate(2.0, 5.0), clock)
    for seconds, tokens in steps:
        clock.now += seconds
        wait = buckets.take("a", tokens)
        if not wait:
            taken += tokens
            most = 5.0 + 2.0 * clock.now + max(0, tokens - 5)
            assert taken <= most + 1e-6
        else:
            clock.now += wait + 1e-6
            assert buckets.take("a", tokens) == 0, "after the wait it is let in"
            taken += tokens
    assert buckets.take("b", 5) == 0, "another asker has a bucket of its own"


def test_full_buckets_are_forgotten_first() -> None:
    clock = Clock()
    buckets = Buckets(Rate(1.0, 1.0), clock)
    for number in range(MOST_BUCKETS):
        buckets.take(number)
    clock.now = 2.0
    buckets.take("busy")
    assert buckets.take("busy") > 0
    for number in range(MOST_BUCKETS):
        buckets.take(f"new {number}")
    assert len(buckets._levels) <= MOST_BUCKETS


def test_an_ipv6_customer_is_one_asker() -> None:
    assert asker_of(("2001:db8::1", 5)) == asker_of(("2001:db8::ffff", 6))
    assert asker_of(("2001:db8::1", 5)) != asker_of(("2001:db8:0:1::1", 5))
    assert asker_of(("127.0.0.1", 5)) == asker_of(["127.0.0.1", 9])
    assert asker_of(None) == asker_of(()) == ""
    with pytest.raises(UsageError):
        Rate(0, 1)
