"""Rules T: allowance tokens, for when the platform cannot be reached.

A permission needs the platform; a host that has bought tokens beforehand goes on without it. A
token does not know its query in advance, so the host's signed answer binds it to one, and a report
in the log says to which:

T1  A host buys tokens under its own license while it gives permissions; they are paid, and counted
    among the inferences, in the same step, and not paid back. A host uses a token once it is ripe
    (`ripening_seconds`): then every key that is out was drawn after it was bought.
T2  A token stands for one answer: the host reports its number with the digest of the signed answer,
    once and for good. The digest is over the signature too, so it tells nobody what was asked.
T3  An answer that carries a token gives no claim where the token was bought before the key was
    drawn and is reported for this very answer. The host has `report_seconds` from the commitment:
    until then nobody may claim. A token that is bought once a key is out is none for that key:
    else a host could pay only where it sees that it was asked.

A host that signs one token under several answers can report one of them. It cannot tell which of
them a prover holds, since a commitment shows nothing, so each reuse is a permission that it skips.
"""

from __future__ import annotations

from dataclasses import dataclass

from loyal.encoding import digest
from loyal.protocol import events as e
from loyal.protocol.answers import SignedAnswer
from loyal.protocol.licenses import known, require_active
from loyal.protocol.lineage import pay
from loyal.protocol.stake import refuse
from loyal.protocol.state import License, Moment, State

USE = "loyal token use 1"
MOST_TOKENS = 1_000_000
"""Bought at once."""
MOST_USES = 1_024
"""In one report; the form of a list allows no more."""


@dataclass(frozen=True)
class BuyTokens:
    """A host pays for queries beforehand."""

    author: bytes
    license: bytes
    count: int


@dataclass(frozen=True)
class ReportTokens:
    """A host says which answers its tokens went to."""

    author: bytes
    license: bytes
    uses: tuple[tuple[int, bytes], ...]
    """(token, `use_digest` of the signed answer), at most MOST_USES."""


def use_digest(answer: SignedAnswer) -> bytes:
    """What stands for a signed answer in a report, 32 bytes."""
    return digest([answer.signed.record, answer.signed.signature], USE)


def buy(state: State, command: BuyTokens, at: Moment) -> list[e.Event]:
    """T1."""
    license = known(state, command.license)
    if command.author != license.host:
        refuse("T1", "this license is another host's", "use your own license")
    terms = require_active(license, at)
    if not 0 < command.count <= MOST_TOKENS:
        refuse("T1", f"1 to {MOST_TOKENS:,} tokens are bought at once", "buy fewer")
    most = terms.most_inferences
    if most and license.permitted + license.tokens + command.count > most:
        refuse("L6", "the license's inferences do not suffice", "buy fewer")
    fee = command.count * terms.price_micro if terms.kind == "pay_per_use" else 0
    if state.balance(e.free(license.host)) < fee:
        refuse("P4", "the host's account does not pay for these tokens", "deposit more")
    paid = pay(state, e.free(license.host), license.model, fee)
    ripe = at.seconds + state.parameters.ripening_seconds
    return [*paid, e.TokensBought(command.license, license.tokens, command.count, ripe)]


def report(state: State, command: ReportTokens, at: Moment) -> list[e.Event]:
    """T2."""
    license = known(state, command.license)
    if command.author != license.host:
        refuse("T2", "this license is another host's", "use your own license")
    numbers = [number for number, _ in command.uses]
    if not numbers or len(set(numbers)) != len(numbers):
        refuse("T2", "a report names each of its tokens once", "send each use once")
    for number, use in command.uses:
        if not 0 <= number < license.tokens or len(use) != 32:
            refuse("T2", "there is no such token", "report tokens that were bought")
        if number in license.reported:
            refuse("T2", "this token was reported before", "a token stands for one answer")
    return [e.TokensReported(command.license, command.uses)]


def require_unused(
    state: State, license: License, answer: SignedAnswer, token: int, at: Moment
) -> None:
    """T3, for a claim in the draw that is out: ProtocolError where its token clears the answer, or
    may still do so."""
    drawn = license.drawn
    assert drawn is not None
    number = drawn.license, drawn.number
    drew = drawn.until - state.parameters.draw_seconds
    if not _held(license, token, drew + state.parameters.ripening_seconds):
        return
    if license.reported.get(token) == use_digest(answer):
        refuse("T3", "the answer came with its token", "there is nothing to claim")
    until = state.committed_at[number] + state.parameters.report_seconds
    if token not in license.reported and at.seconds <= until:
        refuse("T3", f"the host may report its token until {until}", "wait for its report")


def _held(license: License, token: int, ripe: int) -> bool:
    """Whether the host had bought this token before the second whose tokens are ripe then."""
    return any(
        first <= token < first + count and ripens < ripe
        for first, count, ripens in license.allowances
    )
