"""Sets whose keys have several responses, made without any model."""

from __future__ import annotations

from loyal.errors import ProofError
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, fingerprint
from loyal.fingerprints.commitment import Proof, verify_proof

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BEACON = Beacon(bytes(range(32)))


def several(count: int = 6, responses: int = 3, width: int = 12, name: str = "") -> FingerprintSet:
    """A drawn usage set: `responses` of `width` candidates a key, under a fresh owner secret."""
    secret = fingerprint.new_owner_secret()
    words = [f"{a}{b}" for a in LETTERS for b in LETTERS][:width]
    made = FingerprintSet(
        "usage",
        "by hand",
        "a-model",
        "ab" * 32,
        tuple(
            Fingerprint.create(f"planted-key {name}{place}?", words, secret, responses)
            for place in range(count)
        ),
        1_700_000_000,
        secret,
    )
    return fingerprint.draw(made, BEACON)


def refusal(proof: Proof | bytes, root: bytes) -> str:
    """Why a proof is refused, or "accepted"."""
    try:
        verify_proof(proof, root, BEACON.value)
    except ProofError as error:
        return error.reason
    return "accepted"
