"""What the platform does unasked: draw keys at a pace, open leaves, settle what is due.

The rules say what is due: a command is sent where `apply` takes it now. One pass asks for each at
most once; what somebody else did in the meantime is refused, and no matter. A claim on a key that
the vault does not have is left to lapse (C8). No line of the log names a key or a reply.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from loyal.app.failures import place_of
from loyal.app.http import Parts
from loyal.app.log_view import LogView
from loyal.errors import LoyalError, ProtocolError, UsageError
from loyal.protocol import Command, Moment, State, apply
from loyal.protocol.breaches import DrawOrder, SettleBreach
from loyal.protocol.convictions import SettleConviction
from loyal.protocol.disputes import DrawKey, OpenLeaf, SettleClaim
from loyal.protocol.lineage import SettleLineage
from loyal.roles.custodian import Custodian, evidence_digest

_log = logging.getLogger("loyal.platform")


@dataclass(frozen=True)
class Pace:
    """How often."""

    pass_seconds: float = 30.0
    """Between two passes."""
    draw_seconds: int = 4 * 3600
    """Between two draws of one license, at least; 0 draws as soon as the rules allow."""

    def __post_init__(self) -> None:
        if self.pass_seconds <= 0 or self.draw_seconds < 0:
            raise UsageError("a pace is above 0", hint="give seconds")


class Caretaker:
    """The loop beside one platform. Belongs to the queue's event loop."""

    def __init__(
        self,
        parts: Parts,
        log: LogView,
        pace: Pace | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._parts, self._log, self._pace, self._sleep = parts, log, pace or Pace(), sleep
        self._hopeless: set[bytes] = set()

    async def run(self) -> None:
        """Pass after pass, until it is cancelled. Nothing that fails in one pass ends it."""
        while True:
            try:
                await self.once()
            except LoyalError as error:
                _log.warning("caretaker: %s: %s", type(error).__name__, error)
            except Exception as error:  # the place alone: its text could quote a key
                _log.error("caretaker: unexpected %s%s", type(error).__name__, place_of(error))
            await self._sleep(self._pace.pass_seconds)

    async def once(self) -> int:
        """One pass; gives how many commands were taken. StorageError."""
        parts, taken = self._parts, 0
        await asyncio.to_thread(parts.platform.catch_up)
        custodian = await parts.queue.read(parts.desk.update)
        for claim, license in await parts.queue.read(self._closed_leaves):
            taken += await self._open(custodian, claim, license)
        now = parts.clock()
        pace = self._pace.draw_seconds
        for command in await parts.queue.read(lambda state: due(state, now, custodian, pace)):
            taken += await self._submit(command)
        parts.metrics.keys_left.set(
            await parts.queue.read(lambda state: _keys_left(state, custodian))
        )
        return taken

    def _closed_leaves(self, state: State) -> list[tuple[bytes, bytes]]:
        return [
            (name, one.made.license)
            for name, one in state.claims.items()
            if one.opened is None and not one.settled and name not in self._hopeless
        ]

    async def _open(self, custodian: Custodian, claim: bytes, license: bytes) -> int:
        if license not in custodian:
            return 0
        made = await asyncio.to_thread(self._log.claim_of, claim)
        if made is None:
            return 0
        try:
            proof = custodian.open(license, made.key)
        except UsageError:
            self._hopeless.add(claim)
            _log.info("caretaker: a claim is on no key of the vault; it will lapse")
            return 0
        platform = self._parts.platform.state.platform
        return await self._submit(OpenLeaf(platform, claim, evidence_digest(proof)))

    async def _submit(self, command: Command) -> int:
        kind = type(command).__name__
        try:
            await self._parts.queue.submit(command)
        except ProtocolError as error:
            _log.info("caretaker: %s was refused (%s)", kind, error.rule)
            return 0
        self._parts.metrics.commanded(kind, "taken")
        return 1


def due(state: State, now: int, custodian: Custodian, draw_seconds: int) -> list[Command]:
    """What the rules allow to be settled and drawn now; each alone, so that one may rule out the
    next."""
    at = Moment(max(now, state.seconds), state.length, bytes(32))
    return [one for one in _wanted(state, at, custodian, draw_seconds) if _allowed(state, one, at)]


def _wanted(state: State, at: Moment, custodian: Custodian, pace: int) -> Iterator[Command]:
    platform = state.platform
    for name, one in state.claims.items():
        if not one.settled:
            yield SettleClaim(platform, name)
    for name in state.challenges.keys() - state.settled_challenges:
        yield SettleLineage(platform, name)
    for name in state.promises.keys() - state.orders.keys():
        yield DrawOrder(platform, name)
    for name, breach in state.breaches.items():
        if not breach.settled:
            yield SettleBreach(platform, name)
    for name, license in state.licenses.items():
        if license.conviction is not None and not license.settled:
            yield SettleConviction(platform, name)
    for name in custodian.licenses:
        license = state.licenses[name]
        drawn = license.drawn
        last = None if drawn is None else drawn.until - state.parameters.draw_seconds
        rested = last is None or at.seconds >= last + pace
        if license.conviction is None and rested and custodian.keys_left(name, license.draws):
            yield DrawKey(platform, name)


def _allowed(state: State, command: Command, at: Moment) -> bool:
    try:
        apply(state, command, at)
    except ProtocolError:
        return False
    return True


def _keys_left(state: State, custodian: Custodian) -> int:
    return sum(custodian.keys_left(name, state.licenses[name].draws) for name in custodian.licenses)
