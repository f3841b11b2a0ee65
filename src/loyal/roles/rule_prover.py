"""A prover with a secret rule in place of a pair: fresh keys, none of them ever spent.

It asks a host keys that the vault's side wrote, as any user would, and sorts what came back by the
host's own signature and the log: an answer under a permission for this very key is none of its
business, and one that the host signed without any is evidence. No key is drawn from the log, no
commitment and no demand is made, and the vault notes nothing: the same rule serves for other hosts
and other days. It knows no color, so it cannot choose keys that suit a model.

What it gives back goes to the rule's owner (`fingerprints.functional_check`) or, with an opening,
to anybody (`functional_evidence`). Left out: a kind of claim for it in the log, which knows pairs
alone so far (docs/rules.md), and HTTP (`app.prover_client`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from loyal.encoding import Value
from loyal.errors import (
    EncodingError,
    EndpointError,
    LedgerError,
    ProtocolError,
    SignatureError,
)
from loyal.fingerprints.functional_check import Exchange
from loyal.protocol import SignedAnswer, State
from loyal.protocol.answers import message_digest
from loyal.protocol.state import License
from loyal.roles.prover import Asker, Heard, cleared, reported, signed_answer
from loyal.signing import Signed

Standing = Literal["permitted", "token", "unpermitted", "unsigned", "silent", "unsorted"]
"""permitted: the host shows a permission for this key that is in the log, or reported the token
that it went on. token: it names a token that is not reported yet (see `RuleProver.again`).
unpermitted: the host signed an answer and shows neither. unsigned: a reply without the host's
signature over it, or not dated as it was heard. silent: no reply. unsorted: signed, and the log
could not be read when all was heard (see `RuleProver.again`)."""


class Reader(Protocol):
    """What it needs of the platform: the log. EndpointError, LedgerError."""

    async def read_on(self) -> State:
        """The state of the log as it stands now, checked (`Mirror`)."""
        ...


@dataclass(frozen=True, repr=False)
class RuleAnswer:
    """What a host said to one key. Holds secrets: never print it."""

    key: str
    reply: str | None
    answer: bytes | None
    """The host's signed answer over key and reply."""
    standing: Standing

    @property
    def exchange(self) -> Exchange:
        """For the test of the rule: a key that was answered without permission, under the host's
        signature, counts with its reply, any other with an empty one. So all keys stay in, in
        their order, and none is left out for what was replied to it."""
        evident = self.standing == "unpermitted"
        return Exchange(self.key, self.reply or "" if evident else "")

    def __repr__(self) -> str:
        return f"RuleAnswer({self.standing})"


class Nobody:
    """Who is asked where answers are only sorted."""

    async def ask(self, message: str) -> Heard | None:
        """No reply."""
        return None


@dataclass(frozen=True, repr=False)
class RuleProver:
    """One prover and one license."""

    license: bytes
    desk: Reader
    asker: Asker
    timer: Callable[[], float] = time.monotonic
    """Seconds that never run back: when a host was asked and heard."""

    async def ask(self, keys: Sequence[str], now: int) -> list[RuleAnswer]:
        """Ask each key once, from Unix seconds `now` on, and sort the answers by the log as it
        stands behind the last; where that cannot be read any more they stay unsorted, and nothing
        that was heard is lost. Writes nothing anywhere. Before the first key: EndpointError,
        LedgerError; ProtocolError where the log has no such license."""
        began = self.timer()
        host = self._license(await self.desk.read_on()).host
        found: list[tuple[str, str | None, bytes | None]] = []
        for key in keys:
            asked = now + int(self.timer() - began)
            heard = await self.asker.ask(key)
            if heard is None:
                found.append((key, None, None))
                continue
            when = asked, now + math.ceil(self.timer() - began)
            found.append((key, heard.reply, signed_answer(heard, host, self.license, key, when)))
        try:
            return await self._sorted(found)
        except (EndpointError, LedgerError):
            return [RuleAnswer(*one, _without_log(*one[1:])) for one in found]

    async def again(self, answers: Sequence[RuleAnswer]) -> list[RuleAnswer]:
        """The same answers by the log as it stands now: a token may have been reported since, or
        the log be there again. An answer that this host did not sign over its key and reply counts
        as unsigned, whoever says that it was heard. EndpointError, LedgerError, ProtocolError."""
        return await self._sorted([(one.key, one.reply, one.answer) for one in answers])

    async def _sorted(
        self, answers: Sequence[tuple[str, str | None, bytes | None]]
    ) -> list[RuleAnswer]:
        state = await self.desk.read_on()  # the batches of the receipts stand in the log by now
        return [RuleAnswer(*one, self._standing(state, *one)) for one in answers]

    def _license(self, state: State) -> License:
        if self.license not in state.licenses:
            raise ProtocolError("the log has no such license", hint="check the license's id")
        return state.licenses[self.license]

    def _standing(self, state: State, key: str, reply: str | None, data: bytes | None) -> Standing:
        if reply is None:
            return "silent"
        license = self._license(state)
        if data is None or not signed_by(license.host, self.license, (key, reply), data):
            return "unsigned"
        signed = SignedAnswer(Signed[Value].from_bytes(data))
        if cleared(state, license.host, self.license, signed, key) or reported(license, signed):
            return "permitted"
        return "unpermitted" if signed.verify(license.host).token is None else "token"


def signed_by(host: bytes, license: bytes, said: tuple[str, str], data: bytes) -> bool:
    """Whether these bytes are this host's signed answer under this license over a key and its
    reply. That no permission was there the log alone can say, and when it was heard the asker."""
    key, reply = said
    try:
        answer = SignedAnswer(Signed[Value].from_bytes(data)).verify(host)
    except (SignatureError, EncodingError, ProtocolError):
        return False
    whole = answer.reply == message_digest(reply) and message_digest(key) in answer.messages
    return whole and answer.license == license


def _without_log(reply: str | None, data: bytes | None) -> Standing:
    return "silent" if reply is None else "unsigned" if data is None else "unsorted"
