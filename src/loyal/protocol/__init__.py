"""Ownership as a pure state machine ("Training AI to be Loyal", section 2.1): no I/O, no clock, no
model. Rules read a state and give events; the ledger keeps the events; a replay gives the state.

    from loyal.protocol import Moment, State, apply
    from loyal.protocol.stake import Bond, Deposit

    state = State(platform=platform_key.public.data)
    for event in apply(state, Deposit(platform, prover, 5_000_000), Moment(now, 0, beacon)):
        state.record(state.length, event)

What there is to ask for stands beside its rules: `stake`, `lineage`, `licenses`, `permits`,
`disputes`, `voting`. docs/protocol.md numbers them all.
"""

from loyal.protocol.answers import Answer, SignedAnswer
from loyal.protocol.events import Event
from loyal.protocol.licenses import Terms
from loyal.protocol.parameters import Parameters
from loyal.protocol.permission import MessageDigest, Permission, PermissionBatch, Receipt
from loyal.protocol.rules import Command, apply
from loyal.protocol.state import Moment, State

__all__ = [
    "Answer",
    "Command",
    "Event",
    "MessageDigest",
    "Moment",
    "Parameters",
    "Permission",
    "PermissionBatch",
    "Receipt",
    "SignedAnswer",
    "State",
    "Terms",
    "apply",
]
