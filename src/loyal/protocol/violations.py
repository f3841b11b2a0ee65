"""Rules U: a host keeps to the purpose of its license, and its own signature shows when it did not.

U1  A prompt that the license denies, in a rule that anybody can check (`Terms.allows`), MUST get no
    answer. The host's signed answer over such a message is the whole proof: no key, no verifier, no
    chance is part of it.
U2  Each signed answer MUST be shown once. It costs `violation_bps` of what the license's stake is
    then, on its way back or not; the parts go as those of a slash do (C13), the bounty to whoever
    shows it, never to the host.
U3  Nobody MAY demand an answer to such a prompt (C5), so no host has to choose between the two.

A host that answers without signing shows nothing: its users see the missing signature, and the
community can end the license (L5).
"""

from __future__ import annotations

from dataclasses import dataclass

from loyal.encoding import digest
from loyal.protocol import events as e
from loyal.protocol.answers import SignedAnswer, message_digest
from loyal.protocol.licenses import known, purpose, terms_of
from loyal.protocol.stake import divide, refuse, share_of
from loyal.protocol.state import Moment, State

VIOLATION = "loyal violation 1"


@dataclass(frozen=True, repr=False)
class ShowViolation:
    """Somebody shows what a host answered. Holds a user's message: never print it."""

    author: bytes
    license: bytes
    message: str
    """The denied prompt, byte for byte as it was asked."""
    answer: SignedAnswer
    """The host's, over that message."""


def violation_id(license: bytes, answer: SignedAnswer) -> bytes:
    """What a violation is called, 32 bytes: one signed answer is one."""
    return digest([license, answer.signed.record], VIOLATION)


def show(state: State, command: ShowViolation, at: Moment) -> list[e.Event]:
    """U1 and U2."""
    license = known(state, command.license)
    if terms_of(license).allows(command.message):
        refuse("U1", "the license allows this prompt", "show an answer to one that it denies")
    answer = command.answer.verify(license.host)
    if answer.license != command.license or message_digest(command.message) not in answer.messages:
        refuse("U1", "the host answered another message", "show the answer to this very prompt")
    name = violation_id(command.license, command.answer)
    if name in state.violations:
        refuse("U2", "this answer was shown before", "an answer is one violation")
    held = state.staked(purpose(command.license), license.host)
    amount = share_of(held, state.parameters.violation_bps)
    if not amount:
        refuse("U2", "the license's stake is gone", "there is nothing left to lose")
    pool = f"violation:{name.hex()}"
    moves = divide(state, command.license, amount, pool, ((command.author, 1),))
    return [*moves, e.ViolationShown(name, command.license, command.author, amount)]
