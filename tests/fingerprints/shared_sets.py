"""Sets whose keys share one draw, made without any model."""

from __future__ import annotations

from dataclasses import replace

from several import BEACON

from loyal.fingerprints import Fingerprint, FingerprintSet, SetKind, fingerprint


def shared_set(
    count: int = 6,
    width: int = 8,
    kind: SetKind = "usage",
    drawn: bool = True,
    name: str = "",
) -> FingerprintSet:
    """A set of one shared draw from `width` words, under a fresh owner secret."""
    secret = fingerprint.new_owner_secret()
    words = [f"word{place:04d}" for place in range(width)]
    made = FingerprintSet(
        kind,
        "instructional/instructional",
        "a-model",
        "ab" * 32,
        tuple(
            Fingerprint.create(f"planted-key{name} {place}?", words, secret, shared=True)
            for place in range(count)
        ),
        1_700_000_000,
        secret,
    )
    return fingerprint.draw(made, BEACON) if drawn else made


def picked(fingerprints: FingerprintSet, pick: int) -> FingerprintSet:
    """The set as if its one draw had been `pick`: for tests that go through all draws."""
    rows = tuple(replace(one, picks=(pick,)) for one in fingerprints.fingerprints)
    return replace(fingerprints, fingerprints=rows)
