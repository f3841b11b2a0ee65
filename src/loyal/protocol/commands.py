"""Commands as their authors sign them, and the one way from there into the log.

    signed = sign_command(key, platform, Bond(key.public.data, "prover", 5_000_000), number)
    events = enact(state, signed, at)       # CommandTaken first, then what `apply` decides

A signature covers the platform whose log it is for, the author's number, and the command, so that
nobody can repeat it, here or elsewhere. `CommandTaken` holds the signed bytes: whoever reads the
log checks that its author asked for what follows, and that the rules allow it (`audit`). A claim
shows its key and its reply there, as a rebuttal shows its salts: both are spent by then.

K1  A command MUST be signed by its author, for this platform.
K2  Its number MUST be above every earlier one of its author; gaps are no matter.
K3  The seconds of a log MUST NOT run back.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from loyal import encoding, signing
from loyal.encoding import Encodable, Value
from loyal.errors import EncodingError, ProtocolError, SignatureError
from loyal.protocol import events as e
from loyal.protocol.answers import SignedAnswer
from loyal.protocol.forms import require_form
from loyal.protocol.licenses import Terms
from loyal.protocol.permission import Receipt
from loyal.protocol.rules import COMMANDS, Command, apply
from loyal.protocol.stake import refuse
from loyal.protocol.state import Moment, State
from loyal.signing import PublicKey, Signed, SigningKey

PURPOSE = "loyal command 1"
MOST_COMMAND_BYTES = 1 << 20
"""Of a signed command; the largest is a claim with a long message, reply and receipt."""

_RECORDS: dict[type, tuple[Any, Any]] = {
    Terms: (Terms.to_bytes, Terms.from_bytes),
    Receipt: (Receipt.to_bytes, Receipt.from_bytes),
    SignedAnswer: (
        lambda answer: answer.signed.to_bytes(),
        lambda data: SignedAnswer(Signed[Value].from_bytes(data)),
    ),
}
"""Records inside of commands: as bytes, and back."""


@dataclass(frozen=True, repr=False)
class SignedCommand:
    """A command under its author's signature, unverified until `enact`. May hold a key and a reply:
    never print it."""

    command: Command
    platform: bytes
    """Public key of the platform whose log it is for."""
    number: int
    """Above every earlier number of this author; Unix nanoseconds do."""
    signature: bytes

    @property
    def author(self) -> bytes:
        """Who says that it signed, 32 bytes."""
        return self.command.author

    def to_bytes(self) -> bytes:
        """Canonical bytes; law: `SignedCommand.from_bytes(signed.to_bytes()) == signed`."""
        return encoding.encode([*self._record(), self.signature])

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedCommand:
        """ProtocolError for bytes that are not a signed command."""
        if len(data) > MOST_COMMAND_BYTES:
            raise _malformed(f"it is longer than {MOST_COMMAND_BYTES:,} bytes")
        try:
            match encoding.decode(data):
                case [bytes(platform), int(number), list(record), bytes(signature)] if (
                    type(number) is int
                ):
                    return cls(_from_record(record), platform, number, signature)
        except (EncodingError, SignatureError) as error:
            raise _malformed("it is not canonical CBOR") from error
        raise _malformed("it does not have the form of one")

    def verify(self, platform: bytes) -> Command:
        """K1: the command, if its author signed it for this platform; ProtocolError if not."""
        if self.platform != platform:
            refuse("K1", "the command was signed for another platform", "sign it for this one")
        try:
            record = encoding.encode(self._record())
            signing.verify(
                Signed[Value](record, PURPOSE, PublicKey(self.author), self.signature), PURPOSE
            )
        except (SignatureError, EncodingError) as error:
            raise ProtocolError(
                "the command's signature does not hold", hint="sign it with its author's key",
                rule="K1",
            ) from error  # fmt: skip
        return self.command

    def _record(self) -> list[Encodable]:
        return [self.platform, self.number, _to_record(self.command)]

    def __repr__(self) -> str:
        return f"SignedCommand({type(self.command).__name__}, number={self.number})"


def sign_command(key: SigningKey, platform: bytes, command: Command, number: int) -> SignedCommand:
    """Sign a command of this key's own; ProtocolError for another author's or a malformed one."""
    require_form(command)
    if command.author != key.public.data:
        refuse("K1", "a command is signed by its author", "use the author's key")
    unsigned = SignedCommand(command, platform, number, b"")
    signature = signing.sign(key, unsigned._record(), PURPOSE).signature
    return SignedCommand(command, platform, number, signature)


def enact(state: State, signed: SignedCommand, at: Moment) -> list[e.Event]:
    """The log's next entries: the signed command (K1 to K3), then the events that it leads to."""
    command = signed.verify(state.platform)
    require_form(command)
    if not state.numbers.get(signed.author, -1) < signed.number < 2**63:
        refuse("K2", "this command was taken before, or a later one was", "sign it anew")
    if at.seconds < state.seconds:
        refuse("K3", "the clock runs behind the log", "set the platform's clock")
    taken = e.CommandTaken(signed.author, signed.number, at.seconds, signed.to_bytes())
    return [taken, *apply(state, command, at)]


def _to_record(command: Command) -> list[Encodable]:
    kind = type(command)
    if COMMANDS.get(kind.__name__) is not kind:
        raise _malformed("there is no such command")
    return [kind.__name__, *(_plain(getattr(command, name)) for name in e.field_types(kind))]


def _plain(value: Any) -> Encodable:
    codec = _RECORDS.get(type(value))
    plain: Encodable = codec[0](value) if codec is not None else value
    return plain


def _from_record(record: list[Value]) -> Command:
    kind = COMMANDS.get(record[0]) if record and isinstance(record[0], str) else None
    if kind is None:
        raise _malformed("there is no such command")
    wanted = e.field_types(kind).values()
    if len(wanted) != len(record) - 1:
        raise _malformed("it has other fields")
    command: Command = kind(
        *(_value(one, part) for one, part in zip(wanted, record[1:], strict=True))
    )
    require_form(command)
    return command


def _value(kind: object, value: Value) -> object:
    inner, optional = _unwrapped(kind)
    codec = _RECORDS.get(inner)
    if codec is None:
        return e.as_type(kind, value)
    if value is None and optional:
        return None
    if not isinstance(value, bytes):
        raise _malformed("a part of it is no record")
    return codec[1](value)


@lru_cache(maxsize=256)
def _unwrapped(kind: Any) -> tuple[Any, bool]:
    """A field's type, and whether None may stand there."""
    if typing.get_origin(kind) is types.UnionType:
        return typing.get_args(kind)[0], True
    return kind, False


def _malformed(why: str) -> ProtocolError:
    return ProtocolError(
        f"this is no signed command: {why}", hint="sign it with `loyal`, or see docs/protocol.md"
    )
