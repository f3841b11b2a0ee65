"""The verifier of lineage challenges: does a model answer the lineage set of an earlier one?
("Training AI to be Loyal", section 2.1.)

For each open challenge in whose electorate it stands:

1. the verifier has the challenged model: its weights have the digest that the log names;
2. each leaf that it was shown opens the ancestor's lineage set, under the root in the log, and its
   response was picked by a beacon that came after the set: a root of the log before the challenged
   model stood there (`Mirror.lineage_beacons`), or one that the verifier brings;
3. the model is asked each key greedily, and its reply begins with the response, or not;
4. of the set's n keys, h were seen to hit. A model that was made without the set hits each of them
   with a chance of at most 1/16, whichever it is, so P(Bin(n, 1/16) >= h), times the number of
   beacons that would have served, bounds the chance of so many. What was not shown counts as a
   miss: nobody gains by showing the hits alone. The challenge holds where the bound is at most one
   in `false_conviction_one_in`.

It does not hold where even all the keys that were not shown could not change that. Anything else
gets no verdict: without a quorum the challenger loses (M6). Leaves with fewer than 16 candidates a
response count as not shown, and a key counts once. Left out: where leaves and weights come from
(app), and what stands beside the weights: take tokenizer and chat template from the publisher,
never from the challenger.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loyal.errors import ProofError
from loyal.fingerprints import Proof, VerifiedLeaf, commitment
from loyal.fingerprints.fingerprint import root_of
from loyal.models import LanguageModel, Prompt, Sampling
from loyal.protocol import State
from loyal.protocol.events import LineageChallenged
from loyal.roles.prover import Desk
from loyal.roles.verifier import Verdict, sign
from loyal.statistics import binomial_tail, clopper_pearson

CANDIDATES = 16
"""Of a leaf that counts, at least: the default of `loyal fingerprint generate`."""
_BATCH = 8
_MOST_TOKENS = 64


class LineageDesk(Desk, Protocol):
    """A desk that knows which beacons can have drawn a lineage set."""

    def lineage_beacons(self, root: bytes, before: int) -> frozenset[bytes]:
        """As `Mirror.lineage_beacons`."""
        ...


@dataclass(frozen=True)
class Count:
    """What asking a model came to. Holds no key, no reply and no response."""

    hits: int
    asked: int
    size: int
    """Keys of the set."""
    beacons: int
    """How many would have served."""

    def p_value(self, more: int = 0) -> float:
        """Bound on the chance of so many hits, and `more`, in a model made without the set."""
        hits = min(self.hits + more, self.size)
        return min(1.0, self.beacons * binomial_tail(hits, self.size, 1 / CANDIDATES))

    def __str__(self) -> str:
        share = clopper_pearson(self.hits, self.asked)
        return (
            f"{self.hits} of {self.asked} keys hit, of a set of {self.size}; "
            f"p = {self.p_value():.2g}; 95 % of {share.low:.3f} to {share.high:.3f}"
        )


def leaves_of(root: bytes, proofs: Sequence[Proof], beacon: bytes) -> list[VerifiedLeaf] | str:
    """Obligation 2: the leaves that count, each key once; or in a word why there are none."""
    found: dict[bytes, VerifiedLeaf] = {}
    why = "leaves"
    for proof in proofs:
        try:
            leaf = commitment.verify_proof(proof, root, beacon)
        except ProofError as error:
            why = error.reason
            continue
        if leaf.kind != "lineage" or leaf.one_in < CANDIDATES or leaf.shared:
            why = "set"
        elif not leaf.binding:
            why = "beacon"
        else:
            found.setdefault(leaf.key_digest, leaf)
    return [*found.values()] or why


@dataclass(repr=False)
class DescentVerifier:
    """One verifier of lineage; `step` as often as you like, one at a time."""

    id: bytes
    """Its public key, 32 bytes."""
    desk: LineageDesk
    model: Callable[[bytes], LanguageModel | None]
    """The model whose weights have a digest of 32 bytes; None where the verifier has none."""
    proofs: Sequence[Proof] = ()
    """Leaves of any lineage sets that were opened for this verifier, or that it owns."""
    beacons: Mapping[bytes, bytes] = field(default_factory=dict)
    """Challenge -> the beacon that drew its set, where it is no root of the log."""
    _judged: dict[bytes, Verdict] = field(init=False, default_factory=dict)
    """What models were asked already: they say the same again."""

    def __repr__(self) -> str:
        return f"DescentVerifier({self.id.hex()[:8]})"

    async def step(self, now: int) -> tuple[Verdict, ...]:
        """One round at Unix seconds `now`: verdicts that were signed and taken, and challenges that
        could not be checked. Raises EndpointError and LedgerError where the log cannot be read, and
        ModelError where a model cannot serve."""
        state = await self.desk.read_on()
        found = []
        for name, made in list(state.challenges.items()):
            if self._is_due(state, name, made, now):
                verdict = await self._judge(state, name, made)
                found.append(await sign(self.desk, self.id, verdict))
        return tuple(found)

    def _is_due(self, state: State, name: bytes, made: LineageChallenged, now: int) -> bool:
        return (
            name not in state.settled_challenges
            and now <= made.until
            and self.id in dict(made.electorate)
            and self.id not in state.verdicts.get(name, {})
        )

    async def _judge(self, state: State, name: bytes, made: LineageChallenged) -> Verdict:
        if name in self._judged:
            return self._judged[name]
        challenged, root = state.models[made.model], state.models[made.ancestor].fingerprint_root
        proofs = [one for one in self.proofs if root_of(one.kind, one.size, one.tree_root) == root]
        if not proofs:
            return Verdict(name, "unchecked", "leaves")
        known = self.desk.lineage_beacons(root, challenged.index)
        if name in self.beacons:
            known = frozenset({self.beacons[name]})
        named = Counter(one.beacon.value for one in proofs if one.beacon.value in known)
        if not named:
            return Verdict(name, "unchecked", "beacon")
        ((beacon, _),) = named.most_common(1)
        leaves = leaves_of(root, proofs, beacon)  # 2
        if isinstance(leaves, str):
            return Verdict(name, "unchecked", leaves)
        model = await asyncio.to_thread(self.model, challenged.weights)  # 1
        if model is None:
            return Verdict(name, "unchecked", "model")
        hits = await asyncio.to_thread(hits_of, model, leaves)  # 3
        count = Count(hits, len(leaves), leaves[0].size, len(known))
        self._judged[name] = verdict_of(name, count, state.parameters.false_conviction_one_in)
        return self._judged[name]


def hits_of(model: LanguageModel, leaves: Sequence[VerifiedLeaf]) -> int:
    """Obligation 3: how many of the keys the model answers greedily with their response."""
    # A token is a byte at least; a few more for white space that may stand before.
    longest = min(
        _MOST_TOKENS, 4 + max(len(text.encode()) for one in leaves for text in one.responses)
    )
    hits = 0
    for start in range(0, len(leaves), _BATCH):
        some = leaves[start : start + _BATCH]
        replies = model.generate([Prompt(one.key) for one in some], Sampling(max_tokens=longest))
        hits += sum(leaf.matches(reply.text) for reply, leaf in zip(replies, some, strict=True))
    return hits


def verdict_of(case: bytes, count: Count, one_in: int) -> Verdict:
    """Obligation 4."""
    if count.p_value() * one_in <= 1:
        return Verdict(case, "holds", "descent", str(count))
    if count.p_value(count.size - count.asked) * one_in > 1:
        return Verdict(case, "does not hold", "descent", str(count))
    return Verdict(case, "unchecked", "few leaves", str(count))
