"""Rules C1 to C10, C14: from a drawn key to an upheld claim ("Training AI to be Loyal", Figure 3).

C1  Keys of a delivered license come one at a time, each to one prover, drawn by a lottery weighted
    by bonds from the log's root just before, which the last writer can steer (docs/threats.md).
    Every draw counts as a query from then on.
C2  A prover fixes H(key, reply, salt, prover) in the log before it says anything: once for each key
    drawn for it. A commitment binds its prover: copied, it is worth nothing and takes nothing.
C3  A claim opens a commitment of its own prover, for the key drawn for it, while the draw is open.
C4  A key is claimed once, ever: its nullifier is written with the claim. It holds the license, so
    nobody spends a key through another one.
C5  A claim carries the host's signed answer, over this key as one of the messages exactly as they
    were received and over this reply; or a demand in the log that the host let pass. A demand holds
    the message, so a host that never got it can answer; one that it met gives no claim. It is met
    by an answer with a permission, where the license gives any. One demand a draw, in the draw's
    time; `draw_seconds` after the host's time are left to claim its silence.
C6  An answer that carries a valid receipt for the key gives no claim, wherever its batch stands:
    the host signed over it, so it had it when it answered. A prover that knew the reply beforehand
    and committed early makes nothing of a host that asked first.
C7  The claim's bond is moved before anything else is looked at, and is lost where it is rebutted or
    dismissed by the verifiers.
C8  The vault's side opens the leaf after the claim, so it cannot have told the reply to it.
C9  A receipt rebuts, if it is the platform's, for this host and license, covers the key, and its
    batch stands in the log below the commitment. One that was got after the probe stands above.
C10 Verdicts are heard after the rebuttal's time. A quorum upholds or dismisses; without one the
    claim lapses, and the bond goes back.
C14 A receipt stands for an answer (C5, C6, C9) only if the answer's time, which the host signed, is
    not after the permission's expiry. So an old answer is cleared by what cleared it then, however
    late it is claimed, and nothing clears a permission's use after its hour. An answer that is
    claimed was not begun after the commitment, and one that meets a demand not before it, each up
    to `APART_SECONDS`, since two clocks meet there. Silence has no time, and any receipt that C9
    takes rebuts it.
"""

from __future__ import annotations

from dataclasses import dataclass

from loyal.encoding import digest
from loyal.errors import ProtocolError
from loyal.protocol import events as e
from loyal.protocol.answers import SignedAnswer, message_digest
from loyal.protocol.convictions import convict
from loyal.protocol.licenses import known, require_active, terms_of
from loyal.protocol.permission import APART_SECONDS, Receipt
from loyal.protocol.stake import move, refuse
from loyal.protocol.state import Claim, License, Moment, State
from loyal.protocol.tokens import require_unused
from loyal.protocol.voting import decided, electorate
from loyal.signing import PublicKey

COMMITMENT = "loyal probe commitment 1"
NULLIFIER = "loyal spent key 1"


@dataclass(frozen=True)
class DrawKey:
    """The vault's side has the next key drawn."""

    author: bytes
    license: bytes


@dataclass(frozen=True)
class Commit:
    """A prover fixes what it was told."""

    author: bytes
    license: bytes
    commitment: bytes


@dataclass(frozen=True)
class DemandAnswer:
    """A prover was refused a signed answer, and asks for it in public."""

    author: bytes
    license: bytes
    message: str
    """What was asked: the drawn key. The log then shows it, so it is spent either way."""


@dataclass(frozen=True)
class GiveAnswer:
    """The host signs it after all."""

    author: bytes
    demand: bytes
    answer: SignedAnswer


@dataclass(frozen=True, repr=False)
class MakeClaim:
    """A prover opens its commitment. Holds a key and a reply: never print it."""

    author: bytes
    license: bytes
    key: str
    reply: str
    salt: bytes
    answer: SignedAnswer | None
    """None where the host let a demand for it pass."""


@dataclass(frozen=True)
class OpenLeaf:
    """The vault's side shows the leaf."""

    author: bytes
    claim: bytes
    evidence: bytes
    """Digest of the proof that verifiers are given, 32 bytes."""


@dataclass(frozen=True, repr=False)
class Rebut:
    """The host shows its receipt, and the salts that open it. Holds the key."""

    author: bytes
    claim: bytes
    receipt: Receipt
    message: str
    salts: tuple[bytes, ...]


@dataclass(frozen=True)
class SettleClaim:
    """Close a claim that is decided or whose time is over; anybody may."""

    author: bytes
    claim: bytes


def commitment(key: str, reply: str, salt: bytes, prover: bytes) -> bytes:
    """What a prover fixes, 32 bytes (C2)."""
    return digest([key, reply, salt, prover], COMMITMENT)


def nullifier(license: bytes, key: str) -> bytes:
    """What stands for a spent key of a license, 32 bytes (C4)."""
    return digest([license, key.strip()], NULLIFIER)


def demand_id(license: bytes, number: int, message: str) -> bytes:
    """What a demand in one draw is called, 32 bytes."""
    return digest([license, number, message], "loyal demand 1")


def lottery(
    bonds: tuple[tuple[bytes, int], ...], beacon: bytes, license: bytes, number: int
) -> bytes:
    """Whose turn it is: one prover with a chance of its bond over all bonds (C1).

    The draw is 256 bits modulo the sum, whose bias is below 2^-190 for any sum of money.
    """
    whole = sum(stake for _, stake in bonds)
    if not whole:
        refuse("C1", "no prover has a bond", "bond as a prover first")
    ticket = int.from_bytes(digest([beacon, license, number], "loyal prover lottery 1")) % whole
    for prover, stake in bonds:
        if ticket < stake:
            return prover
        ticket -= stake
    raise AssertionError("the ticket is below the sum of the bonds")


def draw_key(state: State, command: DrawKey, at: Moment) -> list[e.Event]:
    """C1."""
    license = known(state, command.license)
    if command.author != state.platform:
        refuse("C1", "the vault's side draws keys", "ask the platform")
    if license.usage is None or license.weights is None:
        refuse("C1", "the license's model is not delivered", "deliver it first")
    if license.settled:
        refuse("C1", "the license's stake is slashed", "there is nothing more to find")
    if _out(state, license, at):
        refuse(
            "C1", "the last key drawn is still out", "wait for its claim, or for its time to end"
        )
    if license.draws >= license.usage.count:
        refuse("C1", "every key of the set was drawn", "deliver a model with a new set")
    bonds = tuple(one for one in state.electorate("prover") if one[0] != license.host)
    prover = lottery(bonds, at.beacon, command.license, license.draws)
    until = at.seconds + state.parameters.draw_seconds
    return [e.KeyDrawn(command.license, license.draws, prover, until)]


def commit(state: State, command: Commit, at: Moment) -> list[e.Event]:
    """C2."""
    license = known(state, command.license)
    drawn = license.drawn
    if drawn is None or drawn.prover != command.author or not _out(state, license, at):
        refuse("C2", "no key is out to this prover", "wait for a draw")
    if (command.license, drawn.number) in state.commitments:
        refuse("C2", "a commitment is made once a draw", "claim by the one that was made")
    return [e.Committed(command.license, drawn.number, command.commitment, at.seconds)]


def demand(state: State, command: DemandAnswer, at: Moment) -> list[e.Event]:
    """C5: the demand."""
    license = known(state, command.license)
    drawn = license.drawn
    if (
        drawn is None
        or license.closed
        or drawn.prover != command.author
        or at.seconds > drawn.until
    ):
        refuse("C5", "only the prover of the drawn key may demand an answer", "wait for a draw")
    if license.demanded is not None:
        refuse("C5", "an answer is demanded once a draw", "wait for it")
    if not terms_of(license).allows(command.message):
        refuse("U3", "the license denies this prompt", "demand nothing that it denies")
    identity = demand_id(command.license, drawn.number, command.message)
    until = at.seconds + state.parameters.answer_seconds
    return [e.AnswerDemanded(identity, command.license, command.author, command.message, until)]


def give_answer(state: State, command: GiveAnswer, at: Moment) -> list[e.Event]:
    """C5: the host meets it in time."""
    asked = state.demands.get(command.demand)
    if asked is None or command.demand in state.answered:
        refuse("C5", "there is no such open demand", "check its id")
    license = known(state, asked.license)
    if command.author != license.host or at.seconds > asked.until:
        refuse("C5", "the host answers its own demands, in time", f"it had until {asked.until}")
    answer = command.answer.verify(license.host)
    if answer.license != asked.license or message_digest(asked.message) not in answer.messages:
        refuse("C5", "the answer is to another message", "sign the answer that is demanded")
    if answer.time < asked.until - state.parameters.answer_seconds - APART_SECONDS:
        refuse("C14", "the answer is older than the demand", "answer anew, and check the clock")
    receipt, salts = answer.receipt, answer.salts
    shown = (
        receipt is not None
        and _clears(state, asked.license, receipt, asked.message, salts, at.index)
        and not _late(receipt, answer.time)
    )
    if not shown and _permits(license, at):
        refuse("C5", "the answer comes without its permission", "get a permission for the message")
    return [e.AnswerGiven(command.demand)]


def claim(state: State, command: MakeClaim, at: Moment) -> list[e.Event]:
    """C3 to C7."""
    license = known(state, command.license)
    fixed = commitment(command.key, command.reply, command.salt, command.author)
    drawn = license.drawn
    if drawn is None or license.closed or drawn.prover != command.author:
        refuse("C3", "no key is out to this prover", "wait for a draw")
    if not _out(state, license, at):
        refuse("C3", "the time of this draw is over", "claim while it is open")
    if state.commitments.get((command.license, drawn.number), (b"", 0))[0] != fixed:
        refuse("C3", "this is not what the prover committed to", "commit before you claim")
    spent = nullifier(command.license, command.key)
    if spent in state.spent:
        refuse("C4", "this key was claimed before", "a key is spent once")
    answered = _require_answer(state, license, command, at)
    identity = digest([command.license, drawn.number, fixed], "loyal claim 1")
    account = e.bond(_purpose(identity), command.author)
    stake = move(state, e.free(command.author), account, state.parameters.claim_bond_micro)
    made = e.Claimed(
        identity,
        command.license,
        drawn.number,
        command.author,
        fixed,
        spent,
        message_digest(command.key),
        electorate(state, (command.author, license.host)),
        at.seconds + state.parameters.opening_seconds,
        answered,
    )
    return [stake, made]


def open_leaf(state: State, command: OpenLeaf, at: Moment) -> list[e.Event]:
    """C8."""
    one = _open_claim(state, command.claim)
    if command.author != state.platform or one.opened is not None:
        refuse("C8", "the vault's side opens a leaf once", "look at `loyal dispute show`")
    if at.seconds > one.made.until or len(command.evidence) != 32:
        refuse("C8", f"the leaf was to be opened until {one.made.until}", "the claim lapses")
    rebuttal = at.seconds + state.parameters.rebuttal_seconds
    return [
        e.LeafOpened(
            command.claim,
            command.evidence,
            rebuttal,
            rebuttal + state.parameters.verdict_seconds,
        )
    ]


def rebut(state: State, command: Rebut, at: Moment) -> list[e.Event]:
    """C9. Half of the accuser's bond goes to the host, half is burned."""
    one = _open_claim(state, command.claim)
    license = state.licenses[one.made.license]
    until = one.opened.rebuttal_until if one.opened is not None else one.made.until
    if command.author != license.host or at.seconds > until:
        refuse("C9", f"the host could rebut until {until}", "appeal, if it comes to a conviction")
    _, index = state.commitments[one.made.license, one.made.number]
    if message_digest(command.message) != one.made.message:
        refuse("C9", "this message is not the claimed key", "show the receipt of that very query")
    if not _clears(state, one.made.license, command.receipt, command.message, command.salts, index):
        refuse(
            "C9",
            "this receipt is for another query, or is not older than the commitment",
            "show the permission that was got before the answer",
        )
    if _late(command.receipt, one.made.answered):
        refuse("C14", "this receipt had expired by then", "show the permission of that very answer")
    return [
        *_lose_bond(state, command.claim, one, license.host),
        e.Rebutted(command.claim),
        e.ClaimSettled(command.claim, False),
    ]


def settle_claim(state: State, command: SettleClaim, at: Moment) -> list[e.Event]:
    """C10, and what may follow (`convictions`)."""
    one = _open_claim(state, command.claim)
    if one.opened is None:
        if at.seconds <= one.made.until:
            refuse("C10", f"the leaf can be opened until {one.made.until}", "wait for it")
        return [*_return_bond(state, command.claim, one), e.ClaimSettled(command.claim, False)]
    found = decided(state, command.claim, one.made.electorate)
    if found is None and at.seconds <= one.opened.verdict_until:
        refuse("C10", f"the verifiers have time until {one.opened.verdict_until}", "wait for them")
    if found is False:
        host = state.licenses[one.made.license].host
        lost = _lose_bond(state, command.claim, one, host)
        return [*lost, e.ClaimSettled(command.claim, False)]
    settled = e.ClaimSettled(command.claim, bool(found))
    events = [*_return_bond(state, command.claim, one), settled]
    return [*events, *convict(state, command.claim, one, at)] if found else events


def _out(state: State, license: License, at: Moment) -> bool:
    """Whether a drawn key may still be claimed: a demand runs to its end, and is claimed after."""
    if license.drawn is None or license.closed:
        return False
    if license.demanded is not None:
        return at.seconds <= license.demanded.until + state.parameters.draw_seconds
    return at.seconds <= license.drawn.until


def _permits(license: License, at: Moment) -> bool:
    """Whether the license gives permissions now, so that a host can be asked for one."""
    try:
        require_active(license, at)
    except ProtocolError:
        return False
    return True


def _require_answer(state: State, license: License, command: MakeClaim, at: Moment) -> int | None:
    """C5, C6, C14 and T3; gives the answer's time, None for a claim of silence."""
    asked, made = message_digest(command.key), license.demanded
    if made is not None and made.message == command.key and made.demand in state.answered:
        refuse("C5", "the host met the demand for this answer", "there is nothing to claim")
    if command.answer is None:
        if made is None or made.message != command.key:
            refuse("C5", "a claim needs the host's signed answer", "demand it in the log")
        if at.seconds <= made.until:
            refuse("C5", f"the host may answer until {made.until}", "wait for its answer")
        return None
    answer = command.answer.verify(license.host)
    if answer.license != command.license or asked not in answer.messages:
        refuse("C5", "the host answered another message", "claim what it was asked")
    if answer.reply != message_digest(command.reply):
        refuse("C5", "the host gave another reply", "claim what it said")
    committed = state.committed_at[command.license, license.draws - 1]
    if answer.time > committed + APART_SECONDS:
        refuse("C14", "the answer is dated after the commitment", "demand an answer in the log")
    receipt = answer.receipt
    if (
        receipt is not None
        and _clears(state, command.license, receipt, command.key, answer.salts, at.index)
        and not _late(receipt, answer.time)
    ):
        refuse("C6", "the answer came with its permission", "there is nothing to claim")
    if answer.token is not None:
        require_unused(state, license, command.answer, answer.token, at)
    return answer.time


def _late(receipt: Receipt, answered: int | None) -> bool:
    """C14, for a receipt that `_clears` found sound: whether it had expired when it was used."""
    return answered is not None and answered > receipt.permission.expires


def _clears(
    state: State,
    license: bytes,
    receipt: Receipt,
    message: str,
    salts: tuple[bytes, ...],
    index: int,
) -> bool:
    """C9: whether a receipt shows that this message had its permission before `index`."""
    try:
        permission = receipt.verify(PublicKey(state.platform))
    except ProtocolError:
        return False
    place = receipt.header.log_index
    return (
        permission.host == state.licenses[license].host
        and permission.license == license
        and permission.covers(message, salts)
        and state.batches.get(place) == receipt.header.root
        and place < index
    )


def _open_claim(state: State, name: bytes) -> Claim:
    one = state.claims.get(name)
    if one is None or one.settled:
        refuse("C8", "there is no such open claim", "look at `loyal dispute show`")
    return one


def _lose_bond(state: State, name: bytes, one: Claim, host: bytes) -> list[e.Event]:
    account = e.bond(_purpose(name), one.made.prover)
    held = state.balance(account)
    half = held // 2
    return [e.Moved(account, e.free(host), half), e.Moved(account, e.BURNED, held - half)]


def _return_bond(state: State, name: bytes, one: Claim) -> list[e.Event]:
    account = e.bond(_purpose(name), one.made.prover)
    return [e.Moved(account, e.free(one.made.prover), state.balance(account))]


def _purpose(claim: bytes) -> str:
    return f"claim:{claim.hex()}"
