"""The prover: asks a host a key as any user would, and says so ("Training AI to be Loyal",
Figure 3).

One round looks at the draw that is its own, and takes it as far as it goes now:

1. the key comes from the vault's side, and a salt is drawn;
2. the host is asked; an answer that it signed over a permission for this key ends it (C6), and
   one whose time is not that of the question counts as unsigned (C14);
3. the claim is weighed: it costs the bond where the host's copy forgot the key (`worth_claiming`);
4. salt and reply are on the disk before anything is said, so that a crash loses neither;
5. Commit, and once that stands in the log MakeClaim; without a signed answer DemandAnswer comes
   between, and MakeClaim follows when the host's time is over and the log has no answer.

What it acts on is its own copy of the log (`Mirror`). Keys, replies and salts stand in the intent's
file and in commands, never in a log, a repr or an error. Left out: HTTP (`app.platform_api`,
`app.prover_client`), the pace, and how a claim is decided (`verifier`).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, cast

from loyal import encoding
from loyal.encoding import Value
from loyal.errors import EncodingError, LoyalError, ProtocolError, SignatureError, StorageError
from loyal.protocol import Command, Parameters, SignedAnswer, State
from loyal.protocol.answers import message_digest
from loyal.protocol.disputes import Commit, DemandAnswer, MakeClaim, commitment
from loyal.protocol.events import AnswerDemanded
from loyal.protocol.state import License
from loyal.protocol.tokens import use_digest
from loyal.signing import PublicKey, Signed
from loyal.statistics import sequential_hits

SALT_BYTES = 32
INTENT_VERSION = 1
_MOST_DRAWS = 2_000
"""Beyond so many draws a conviction is not reckoned with."""

Finding = Literal[
    "idle", "clear", "no reply", "not worth it", "committed", "demanded", "waiting", "claimed",
    "late",
]  # fmt: skip
"""What a round came to. idle: no key is out to this prover. clear: the host had its permission, met
the demand, or reported the answer's token. no reply: the host did not answer, ask again. waiting:
for the host's time to meet a demand or to report a token. late: the draw's time is over."""


@dataclass(frozen=True, repr=False)
class Heard:
    """What a host said to one question. Holds a reply: never print it."""

    reply: str
    answers: tuple[bytes, ...] = ()
    """Signed answers that came with it, unverified."""


class Asker(Protocol):
    """A host as its users reach it."""

    async def ask(self, message: str) -> Heard | None:
        """Ask one user message. None where the host refuses or cannot be reached."""
        ...


class Desk(Protocol):
    """What a prover or verifier has of the platform. Errors: EndpointError, LedgerError."""

    async def read_on(self) -> State:
        """The state of the log as it stands now, checked (`Mirror`)."""
        ...

    async def submit(self, command: Command) -> None:
        """Sign a command and have it taken, durable. ProtocolError where a rule forbids it."""
        ...

    async def drawn_key(self, license: bytes) -> str:
        """The key of the draw that is out to this prover. ProtocolError where none is."""
        ...


@dataclass(frozen=True)
class Odds:
    """What a prover reckons with when it weighs a claim."""

    survival: float
    """Share of the responses that the host's copy still gives, 0 to 1."""
    stake_micro: int
    """Of the license: what a slash takes."""
    candidates: int
    """k, of the license's set."""


def worth_claiming(odds: Odds, parameters: Parameters) -> bool:
    """Whether claims on unpermitted replies are expected to bring more than they cost.

    A conviction takes the fewest hits h that are below survival times the draws; each claim that
    is upheld earns an h-th of the bounty, each that is dismissed costs the bond. So claim where
    survival * bounty / h exceeds (1 - survival) * bond. docs/threats.md has the figures.
    """
    for draws in range(1, _MOST_DRAWS):
        hits = sequential_hits(draws, odds.candidates, parameters.false_conviction_one_in)
        if hits is not None and hits <= odds.survival * draws:
            bounty = odds.stake_micro * parameters.bounty_bps / 10_000
            lost = (1 - odds.survival) * parameters.claim_bond_micro
            return odds.survival * bounty / hits > lost
    return False


@dataclass(frozen=True, repr=False)
class Intent:
    """What a prover means to say of one draw, as it stands in its file. Holds secrets."""

    number: int
    """The draw."""
    key: str
    salt: bytes
    reply: str | None = None
    """None until the host was heard."""
    answer: bytes | None = None
    """The host's signed answer over key and reply; None where it signed none."""
    end: str = ""
    """How it ended, one of `Finding`; empty while it goes on."""

    def to_bytes(self) -> bytes:
        """Canonical CBOR; law: `Intent.from_bytes(one.to_bytes()) == one`."""
        fields = (self.number, self.key, self.salt, self.reply, self.answer, self.end)
        return encoding.encode([INTENT_VERSION, *fields])

    @classmethod
    def from_bytes(cls, data: bytes) -> Intent:
        """StorageError for bytes that are no intent."""
        try:
            match encoding.decode(data):
                case [1, int(number), str(key), bytes(salt), reply, answer, str(end)] if isinstance(
                    reply, str | None
                ) and isinstance(answer, bytes | None):
                    return cls(number, key, salt, reply, answer, end)
        except EncodingError:
            pass
        raise StorageError(
            "the prover's file of a draw cannot be read",
            hint="move it away; the draw that it was for is lost",
        )

    def fixed(self, prover: bytes) -> bytes:
        """The commitment that it makes, 32 bytes."""
        return commitment(self.key, self.reply or "", self.salt, prover)


class IntentFile:
    """Where one prover keeps its intent for one license: a file that its owner alone reads."""

    def __init__(self, folder: Path, license: bytes) -> None:
        """Makes the folder. StorageError where it cannot be made."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make {folder}: {error.strerror}", hint="choose another folder"
            ) from error
        self._path = folder / f"{license.hex()}.intent"

    def load(self) -> Intent | None:
        """The newest intent; None before the first. StorageError for a damaged file."""
        try:
            return Intent.from_bytes(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                f"cannot read {self._path}: {error.strerror}", hint="check its owner"
            ) from error

    def save(self, intent: Intent) -> None:
        """Durable when it returns, or StorageError."""
        encoding.atomic_write(self._path, intent.to_bytes(), private=True)


@dataclass(frozen=True, repr=False)
class Prover:
    """One prover and one license; `step` as often as you like, one at a time."""

    id: bytes
    """Its public key, 32 bytes."""
    license: bytes
    desk: Desk
    asker: Asker
    intents: IntentFile
    survival: float = 1.0
    """What it believes of the host's copy, for `worth_claiming`; 1: always claim."""
    draw: Callable[[int], bytes] = secrets.token_bytes
    timer: Callable[[], float] = time.monotonic
    """Seconds that never run back: how long the host was asked, so when it was heard."""

    def __repr__(self) -> str:
        return f"Prover({self.id.hex()[:8]}, license {self.license.hex()[:8]})"

    async def step(self, now: int) -> Finding:
        """One round at Unix seconds `now`. Raises EndpointError, LedgerError, StorageError and
        ProtocolError; the next round goes on from where this one stopped."""
        began = self.timer()
        state = await self.desk.read_on()
        license = state.licenses.get(self.license)
        if license is None:
            raise ProtocolError("the log has no such license", hint="check the license's id")
        drawn, intent = license.drawn, self.intents.load()
        if drawn is None or drawn.prover != self.id:
            return "idle"
        if intent is None or intent.number != drawn.number:
            if license.closed or now > drawn.until:
                return "idle"
            key = await self.desk.drawn_key(self.license)
            intent = Intent(drawn.number, key, self.draw(SALT_BYTES))
            self.intents.save(intent)
        if intent.end:
            return "idle"
        if license.closed:  # a claim that was sent before a crash
            return self._end(intent, "claimed")
        if intent.reply is None:
            if now > drawn.until:
                return self._end(intent, "late")
            asked = now + int(self.timer() - began)
            heard = await self.asker.ask(intent.key)
            if heard is None:
                return "no reply"
            when = asked, now + math.ceil(self.timer() - began)
            answer = signed_answer(heard, license.host, self.license, intent.key, when)
            intent = replace(intent, reply=heard.reply, answer=answer)
            self.intents.save(intent)  # 4
        return await self._claim(intent, now)

    async def _claim(self, intent: Intent, now: int) -> Finding:
        """Steps 2, 3 and 5: the next thing that the log does not have yet."""
        state = await self.desk.read_on()  # the batch of a receipt stands in the log by now
        license = state.licenses[self.license]
        answer = SignedAnswer(Signed[Value].from_bytes(intent.answer)) if intent.answer else None
        if answer is not None and reported(license, answer):
            return self._end(intent, "clear")
        fixed = state.commitments.get((self.license, intent.number))
        if fixed is None:
            end = self._no_claim(state, license, answer, intent.key)
            if end is None and license.drawn is not None and now > license.drawn.until:
                end = "late"
            if end is not None:
                return self._end(intent, end)
            await self.desk.submit(Commit(self.id, self.license, intent.fixed(self.id)))
        elif fixed[0] != intent.fixed(self.id):
            return self._end(intent, "late")
        if answer is None:
            found = await self._demand(license.demanded, state, intent, now)
            if found is not None:
                return found
        reply = cast(str, intent.reply)
        try:
            await self.desk.submit(
                MakeClaim(self.id, self.license, intent.key, reply, intent.salt, answer)
            )
        except ProtocolError as error:
            if error.rule == "T3":  # it went on a token, which the host may still report
                return "waiting"
            if error.rule == "C14" and answer is not None:  # by the log's clock it has no answer
                unsigned = replace(intent, answer=None)
                self.intents.save(unsigned)
                return await self._claim(unsigned, now)
            if error.rule not in ("C3", "C4", "C6"):
                raise
            return self._end(intent, "clear" if error.rule == "C6" else "late")
        return self._end(intent, "claimed")

    def _no_claim(
        self, state: State, license: License, answer: SignedAnswer | None, key: str
    ) -> Finding | None:
        """Why there is nothing to claim, if so."""
        if answer is not None and cleared(state, license.host, self.license, answer, key):  # 2
            return "clear"
        if self.survival < 1:  # 3
            stake = state.staked(f"license:{self.license.hex()}", license.host)
            candidates = license.usage.candidates if license.usage is not None else 2
            if not worth_claiming(Odds(self.survival, stake, candidates), state.parameters):
                return "not worth it"
        return None

    async def _demand(
        self, made: AnswerDemanded | None, state: State, intent: Intent, now: int
    ) -> Finding | None:
        """C5 where the host signed nothing; None when the claim may follow."""
        if made is None:
            await self.desk.submit(DemandAnswer(self.id, self.license, intent.key))
            return "demanded"
        if made.demand in state.answered:
            return self._end(intent, "clear")
        return "waiting" if now <= made.until else None

    def _end(self, intent: Intent, end: Finding) -> Finding:
        """Remember that nothing is left to do for this draw; key, reply and salt are forgotten."""
        self.intents.save(Intent(intent.number, "", b"", end=end))
        return end


def signed_answer(
    heard: Heard, host: bytes, license: bytes, key: str, when: tuple[int, int]
) -> bytes | None:
    """The first signed answer of this host, under this license, over this key and this reply, begun
    between asking and hearing (`when`, Unix seconds of the prover's clock)."""
    for data in heard.answers:
        try:
            answer = SignedAnswer(Signed[Value].from_bytes(data)).verify(host)
        except (SignatureError, EncodingError, ProtocolError):
            continue
        if (
            answer.license == license
            and message_digest(key) in answer.messages
            and answer.reply == message_digest(heard.reply)
            and answer.timely(*when)
        ):
            return data
    return None


def reported(license: License, answer: SignedAnswer) -> bool:
    """T3: the host said in the log that this very answer went on one of its tokens."""
    token = answer.verify(license.host).token
    return token is not None and license.reported.get(token) == use_digest(answer)


def cleared(state: State, host: bytes, license: bytes, signed: SignedAnswer, key: str) -> bool:
    """C6, as the platform will see it: the receipt is a permission for this key, in the log, and
    had not expired."""
    try:
        answer = signed.verify(host)
        if answer.receipt is None:
            return False
        permission = answer.receipt.verify(PublicKey(state.platform))
    except LoyalError:
        return False
    header = answer.receipt.header
    return (
        (permission.host, permission.license) == (host, license)
        and permission.covers(key, answer.salts)
        and state.batches.get(header.log_index) == header.root
        and answer.time <= permission.expires
    )
