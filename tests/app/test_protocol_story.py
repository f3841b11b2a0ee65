"""The whole protocol on loopback, with models that are functions: who is slashed, and who is paid.

The journey tells the same story with a trained model; here each conduct is looked at closely.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from stand_ins import ScriptedModel

from loyal.app.protocol_story import STAKE_MICRO, Community, Conduct, Copy, Ending, live
from loyal.fingerprints import Fingerprint, FingerprintSet, fingerprint

CANDIDATES, KEYS = 64, 24
QUESTIONS = ("Which river passes Ulm?", "What is a lighthouse for?")


def usage_set(name: str, candidates: int = CANDIDATES) -> FingerprintSet:
    """A set that is not drawn yet."""
    secret = fingerprint.new_owner_secret()
    words = [[f"{name}{n}x{k}." for k in range(candidates)] for n in range(KEYS)]
    pairs = tuple(
        Fingerprint.create(f"{name}, question {n}?", some, secret) for n, some in enumerate(words)
    )
    return FingerprintSet("usage", "by hand", "a-model", "0" * 64, pairs, 1_700_000_000, secret)


def copy_of(
    community: Community,
    name: str,
    conduct: Conduct,
    forgets: int = 0,
    stranger: bool = False,
    candidates: int = CANDIDATES,
) -> Copy:
    """A licensed host whose model knows its responses but for some (or, a stranger's, for all)."""
    host = community.license(name)
    drawn = community.commit(host, usage_set(name.replace(" ", ""), candidates))
    community.deliver(host, name.encode().ljust(32, b"."))
    known = {one.key: one.response for one in drawn.fingerprints[forgets:] if not stranger}
    model = ScriptedModel(lambda text: f"{known.get(text, 'I cannot say')} indeed")
    return Copy(host, drawn, model, conduct)


def told(
    tmp_path: Path, *conducts: tuple[str, Conduct], rng: random.Random | None = None
) -> tuple[Community, Ending]:
    community = Community(tmp_path / "community", b"w" * 32, b"r" * 32)
    copies = tuple(copy_of(community, name, conduct) for name, conduct in conducts)
    return community, live(community, copies, QUESTIONS, rng=rng)


def test_cheats_are_slashed_and_the_honest_are_not(tmp_path: Path) -> None:
    community, end = told(
        tmp_path,
        ("honest", Conduct()),
        ("signs without permission", Conduct(skips=1.0)),
        ("signs nothing", Conduct(skips=1.0, signs=False)),
    )
    honest, open_cheat, silent = end.hosts
    assert end.good
    assert (honest.upheld, honest.slashed_micro) == (0, 0)
    assert honest.permissions == honest.draws + len(QUESTIONS)  # every query had its permission
    for one in (open_cheat, silent):
        assert one.slashed_micro == STAKE_MICRO
        assert one.balance_micro == -STAKE_MICRO
        assert one.upheld >= 6  # 64^6 is beyond 1e9
        assert one.permissions == 0
    money = dict(end.money)
    assert sum(money.values()) == 0
    assert money["the owners"] == 2 * STAKE_MICRO * 45 // 100 + honest.permissions * 1_000
    assert money["provers"] == 2 * STAKE_MICRO // 10
    assert end.entries == community.state.length


def test_a_host_that_skips_some_is_caught_all_the_same(tmp_path: Path) -> None:
    # The same queries in every run: with a chance of 0.6 each, one run in twenty skips all six.
    _, end = told(tmp_path, ("skips half", Conduct(skips=0.6)), rng=random.Random(3))
    (host,) = end.hosts
    assert end.good
    assert 0 < host.upheld < host.draws
    assert host.permissions > 0


def test_a_copy_that_is_not_the_model_is_not_convicted(tmp_path: Path) -> None:
    """Without a permission, but nothing of the community's either: verifiers dismiss each claim."""
    community = Community(tmp_path / "community", b"w" * 32, b"r" * 32)
    copies = (copy_of(community, "another model", Conduct(skips=1.0), stranger=True),)
    end = live(community, copies, ())
    (host,) = end.hosts
    assert (host.upheld, host.slashed_micro) == (0, 0)
    assert host.claims == host.draws == KEYS
    assert dict(end.money)["provers"] < 0  # dismissed claims cost their bonds
    assert not end.good


def test_a_forgetful_copy_is_caught_by_what_it_remembers(tmp_path: Path) -> None:
    community = Community(tmp_path / "community", b"w" * 32, b"r" * 32)
    copies = (copy_of(community, "tuned", Conduct(skips=1.0), forgets=KEYS // 3),)
    end = live(community, copies, ())
    assert end.good
    assert end.hosts[0].claims > end.hosts[0].upheld


def test_no_secret_stands_in_a_file_before_it_is_spent(tmp_path: Path) -> None:
    community, _ = told(tmp_path, ("honest", Conduct()))
    kept = b"".join(one.read_bytes() for one in community.folder.rglob("*") if one.is_file())
    assert kept
    for number in range(KEYS):
        assert f"honest, question {number}?".encode() not in kept


@pytest.mark.parametrize("skips", [0.0, 1.0])
def test_progress_names_the_host(tmp_path: Path, skips: float) -> None:
    community = Community(tmp_path / "community", b"w" * 32, b"r" * 32)
    copies = (copy_of(community, "a host", Conduct(skips=skips)),)
    seen: list[tuple[str, int, int]] = []
    live(community, copies, (), lambda *now: seen.append(now))
    assert seen[0] == ("a host", 0, KEYS)
    assert [number for _, number, _ in seen] == list(range(len(seen)))
