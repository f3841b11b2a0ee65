"""The verifier: checks what it can of a claim, and signs that alone ("Training AI to be Loyal",
Figure 3).

For each claim whose rebuttal is over, and in whose electorate it stands:

1. the evidence is what the log names: the proof has the digest that stands in LeafOpened;
2. key, reply and salt open the prover's commitment, and the key has the nullifier and the message
   digest of the claim;
3. the proof opens a leaf of the license's usage set, under the root in the log and a beacon that
   the verifier takes from the log or brings itself, and the leaf is of this key;
4. the reply begins with the response that the beacon picked;
5. where the verifier has a copy of M.oml: it gives the response too.

1 to 3 that fail mean that the evidence is no good, which is nobody's guilt: no verdict is signed,
and without a quorum the claim lapses and its bond goes back. Only 4 and 5 say that a claim does
not hold. An appealed conviction is judged by its claims, each checked again: it stands where those
that hold convict by themselves (C11), and not where they could not even with those that could not
be checked. Keys and replies never stand in a log, a repr or an error. Left out: HTTP, and lineage
challenges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from loyal.errors import EndpointError, ProofError, ProtocolError, UsageError
from loyal.fingerprints import VerifiedLeaf, commitment
from loyal.models import LanguageModel, Prompt, Sampling
from loyal.protocol import State
from loyal.protocol.answers import message_digest
from loyal.protocol.disputes import commitment as fixed_by
from loyal.protocol.disputes import nullifier
from loyal.protocol.state import Claim, License
from loyal.protocol.voting import GiveVerdict, appeal_ballot
from loyal.roles.custodian import evidence_digest
from loyal.roles.prover import Desk
from loyal.statistics import sequential_hits

Result = Literal["holds", "does not hold", "unchecked"]
_MOST_TOKENS = 64


@dataclass(frozen=True, repr=False)
class Evidence:
    """What a verifier is given of one claim. Holds a key and a reply: never print it."""

    key: str
    reply: str
    salt: bytes
    proof: bytes
    """`fingerprints.Proof` bytes of the opened leaf."""
    beacon: bytes
    """What drew the set, by the platform's word."""


class EvidenceDesk(Desk, Protocol):
    """A desk at which a verifier gets evidence."""

    async def evidence(self, claim: bytes) -> Evidence:
        """Of a claim whose leaf is open. ProtocolError where it is not for this verifier."""
        ...

    def drew_between(self, license: bytes, beacon: bytes) -> bool:
        """Whether the log shows that a beacon came after the set (`Mirror.drew_between`)."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a verifier found of one case."""

    case: bytes
    """A claim's id, the license's whose conviction is appealed, or a lineage challenge's."""
    result: Result
    why: str
    """A word: match, appeal, descent, response, model; or what could not be checked: digest,
    opening, nullifier, beacon, key, set, leaves, a proof's reason, fetch, or refused with the
    rule."""
    counted: str = ""
    """Hits, p-value and interval, where a model was asked many keys."""


def examine(
    state: State, claim: Claim, given: Evidence, beacon: bytes | None
) -> VerifiedLeaf | str:
    """Obligations 1 to 3: the opened leaf, or in a word what could not be checked.

    `beacon` is what the verifier brings, from where it was published; None where it has none.
    """
    made, opened = claim.made, claim.opened
    if opened is None or evidence_digest(given.proof) != opened.evidence:  # 1
        return "digest"
    if fixed_by(given.key, given.reply, given.salt, made.prover) != made.commitment:  # 2
        return "opening"
    if nullifier(made.license, given.key) != made.nullifier:
        return "nullifier"
    if message_digest(given.key) != made.message:
        return "key"
    usage = state.licenses[made.license].usage
    if beacon is None:
        return "beacon"
    if usage is None:
        return "set"
    try:
        leaf = commitment.verify_proof(given.proof, usage.root, beacon)  # 3
    except ProofError as error:
        return error.reason
    if leaf.kind != "usage" or leaf.size != usage.count or leaf.one_in < usage.candidates:
        return "set"
    if leaf.shared:  # the protocol adds draws up as independent ones
        return "set"
    if not leaf.binding:
        return "beacon"
    return leaf if leaf.key == given.key else "key"


@dataclass(frozen=True, repr=False)
class Verifier:
    """One verifier; `step` as often as you like, one at a time."""

    id: bytes
    """Its public key, 32 bytes."""
    desk: EvidenceDesk
    model: LanguageModel | None = None
    """The copy of `license`'s host, for obligation 5; None leaves that out."""
    license: bytes | None = None
    """Whose claims are judged; None: every license's. Each host's copy is its own, so a model goes
    with one license."""
    beacons: Mapping[bytes, bytes] = field(default_factory=dict)
    """License -> the beacon that drew its set, where it is no root of the log."""
    believes_platform: bool = False
    """Whether the platform's word for a beacon is enough."""
    unchecked: Callable[[Verdict], None] = lambda verdict: None
    """Told of each case that could not be checked."""

    def __post_init__(self) -> None:
        if self.model is not None and self.license is None:
            raise UsageError(
                "a model is one host's copy", hint="name the license that it was made for"
            )

    def __repr__(self) -> str:
        return f"Verifier({self.id.hex()[:8]})"

    async def step(self, now: int) -> tuple[Verdict, ...]:
        """One round at Unix seconds `now`: verdicts that were signed and taken, and claims that
        could not be checked. Raises EndpointError and LedgerError where the log cannot be read."""
        state = await self.desk.read_on()
        found = []
        for name, claim in list(state.claims.items()):
            if not self._is_due(state, name, claim, now):
                continue
            found.append(await self._sign(await self._judge(state, name, claim)))
        for name, license in list(state.licenses.items()):
            if self._is_appealed(state, name, license, now):
                found.append(await self._sign(await self._judge_appeal(state, name, license)))
        return tuple(found)

    def _is_due(self, state: State, name: bytes, claim: Claim, now: int) -> bool:
        opened = claim.opened
        return (
            opened is not None
            and self.license in (None, claim.made.license)
            and not claim.settled
            and opened.rebuttal_until < now <= opened.verdict_until
            and self.id in dict(claim.made.electorate)
            and self.id not in state.verdicts.get(name, {})
        )

    def _is_appealed(self, state: State, name: bytes, license: License, now: int) -> bool:
        appeal = license.appeal
        return (
            appeal is not None
            and self.license in (None, name)
            and not license.settled
            and now <= appeal.until
            and self.id in dict(appeal.electorate)
            and self.id not in state.verdicts.get(appeal_ballot(name, appeal.until), {})
        )

    async def _judge_appeal(self, state: State, name: bytes, license: License) -> Verdict:
        """C11 anew, with the claims that this verifier finds to hold."""
        usage, convicted = license.usage, license.conviction
        if usage is None or convicted is None:
            return Verdict(name, "unchecked", "set")
        parameters = state.parameters
        needed = sequential_hits(
            convicted.draws, usage.candidates, parameters.false_conviction_one_in
        )
        sure: list[bytes] = []
        doubtful: list[bytes] = []
        for one in license.upheld:
            claim = state.claims[one]
            result = (await self._judge(state, one, claim)).result
            if result != "does not hold":
                (sure if result == "holds" else doubtful).append(claim.made.prover)

        def convict(provers: list[bytes]) -> bool:
            enough = needed is not None and len(provers) >= needed
            return enough and len(set(provers)) >= parameters.least_provers

        if convict(sure):
            return Verdict(name, "holds", "appeal")
        word: Result = "unchecked" if convict(sure + doubtful) else "does not hold"
        return Verdict(name, word, "appeal")

    async def _judge(self, state: State, name: bytes, claim: Claim) -> Verdict:
        try:
            given = await self.desk.evidence(name)
        except (EndpointError, ProtocolError):
            return Verdict(name, "unchecked", "fetch")
        leaf = examine(state, claim, given, self._beacon(claim.made.license, given.beacon))
        if isinstance(leaf, str):
            return Verdict(name, "unchecked", leaf)
        if not leaf.matches(given.reply):  # 4
            return Verdict(name, "does not hold", "response")
        if self.model is not None and not await asyncio.to_thread(_said_by, self.model, leaf):  # 5
            return Verdict(name, "does not hold", "model")
        return Verdict(name, "holds", "match")

    def _beacon(self, license: bytes, told: bytes) -> bytes | None:
        brought = self.beacons.get(license)
        if brought is not None:
            return brought
        believed = self.believes_platform or self.desk.drew_between(license, told)
        return told if believed else None

    async def _sign(self, verdict: Verdict) -> Verdict:
        verdict = await sign(self.desk, self.id, verdict)
        if verdict.result == "unchecked":
            self.unchecked(verdict)
        return verdict


async def sign(desk: Desk, verifier: bytes, verdict: Verdict) -> Verdict:
    """Sign what was checked and have it taken; gives it, or unchecked where a rule refuses it.
    EndpointError."""
    if verdict.result == "unchecked":
        return verdict
    try:
        await desk.submit(GiveVerdict(verifier, verdict.case, verdict.result == "holds"))
    except ProtocolError as error:
        return Verdict(verdict.case, "unchecked", f"refused {error.rule}".strip())
    return verdict


def _said_by(model: LanguageModel, leaf: VerifiedLeaf) -> bool:
    """Whether the model, greedily, gives one of the responses."""
    replies = model.generate([Prompt(leaf.key)], Sampling(max_tokens=_MOST_TOKENS))
    return leaf.matches(replies[0].text)
