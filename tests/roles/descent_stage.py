"""A model with a lineage set, a younger one that is challenged, and models that answer the set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from actors_stage import CANDIDATES, Court

from loyal.fingerprints import (
    Beacon,
    Fingerprint,
    FingerprintSet,
    Proof,
    commitment,
    fingerprint,
)
from loyal.models import Prompt, Reply, Sampling
from loyal.protocol import Checkpoint, SignedNote
from loyal.protocol import events as e
from loyal.protocol.lineage import ChallengeLineage, PublishModel, model_id

SIZE = 32


class Answering:
    """A language model that knows the first keys of a set, and says nothing to any other."""

    name = "answering"

    def __init__(self, secret: FingerprintSet, known: int) -> None:
        self.asked = 0
        self._replies = {one.key: f" {one.response} ." for one in secret.fingerprints[:known]}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        self.asked += len(prompts)
        return [Reply(self._replies.get(one.text, "I do not know."), 1, True) for one in prompts]

    def next_token(self, prompts: object, top: int) -> list[list[object]]:
        raise AssertionError

    def logprobs(self, prompts: object, replies: object) -> list[list[float]]:
        raise AssertionError


@dataclass
class Family:
    """An ancestor, a model that states no parent, and an open challenge of it."""

    court: Court
    secret: FingerprintSet
    """The ancestor's lineage set, drawn."""
    ancestor: bytes
    challenged: bytes
    weights: bytes
    challenge: bytes
    first: int
    """Where the set's root stands first in the log."""

    @property
    def root(self) -> bytes:
        return self.secret.root

    def proofs(self) -> tuple[Proof, ...]:
        """Every leaf, opened."""
        return tuple(commitment.prove(self.secret, one) for one in range(len(self.secret)))

    def model(self, share: float) -> Answering:
        """A model that answers the first part of the set."""
        return Answering(self.secret, round(share * len(self.secret)))

    def serving(self) -> int:
        """How many roots of the log stand between the set and the challenged model."""
        return self.court.state.models[self.challenged].index - self.first

    def tampered(self, how: str) -> tuple[Proof, ...]:
        """Proofs that are not what the log and the beacon say."""
        proofs = self.proofs()
        if how == "three":
            return proofs[:3]
        if how == "other beacon":
            return tuple(dataclasses.replace(one, beacon=Beacon(b"o" * 32)) for one in proofs)
        found = []
        for one, next_one in zip(proofs, (*proofs[1:], proofs[0]), strict=True):
            leaf = one.fingerprint
            (pick,) = leaf.picks
            moved = dataclasses.replace(leaf, picks=((pick + 1) % CANDIDATES,))
            swapped = next_one.fingerprint if how == "other leaf" else moved
            found.append(dataclasses.replace(one, fingerprint=swapped))
        return tuple(found)


def lineage_set(size: int = SIZE) -> FingerprintSet:
    """An undrawn lineage set of plain keys."""
    secret = fingerprint.new_owner_secret()
    pairs = tuple(
        Fingerprint.create(f"family {n}?", [f"<{n}:{k}>" for k in range(CANDIDATES)], secret)
        for n in range(size)
    )
    return FingerprintSet("lineage", "by hand", "a-model", "0" * 64, pairs, 0, secret)


def family(
    court: Court,
    weights: bytes = b"challenged".ljust(32, b"."),
    undrawn: FingerprintSet | None = None,
    beacon: bytes | None = None,
) -> Family:
    """The set's root first, with the base; then its draw (by the log's root where no beacon is
    given); the model that carries it; a younger one, and a challenge by the ancestor's second
    owner."""
    stage = court.stage
    undrawn = undrawn or lineage_set()
    shares = ((stage.id("owner"), 6_000), (stage.id("member"), 4_000))

    def publish(by: str, digest: bytes, root: bytes, parent: bytes | None = None) -> bytes:
        made = PublishModel(stage.id(by), digest, parent, root, shares)
        stage.do(made)
        return model_id(made)

    base = publish("owner", b"base".ljust(32, b"."), undrawn.root)
    first = court.state.models[base].index
    note = SignedNote.from_bytes(court.shelf.notes[-1])
    drew = beacon or Checkpoint.from_text(note.text).root
    drawn = fingerprint.draw(undrawn, Beacon(drew))
    ancestor = publish("owner", b"ancestor".ljust(32, b"."), undrawn.root, base)
    challenged = publish("host", weights, bytes(32))
    made = stage.do(ChallengeLineage(stage.id("member"), challenged, ancestor))[-1]
    assert isinstance(made, e.LineageChallenged)
    return Family(court, drawn, ancestor, challenged, weights, made.challenge, first)
