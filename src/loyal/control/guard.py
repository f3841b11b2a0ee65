"""Holds a host's replies to the community's functions, and keeps evidence where they differ.

For what weights cannot make exact ("Training AI to be Loyal", section 4): the host runs the same
signed function itself, and compares. `Guard` says what a prompt's exact reply is. A prompt outside
of every domain costs one look at the templates' fixed words (`Outline`); only one that could be
inside is put to the function, a program in its sandbox. A program that reads its domain itself
(`domain`) has no outline: it is asked every prompt.

A `Mismatch` is one reply that was not exact, without its texts: digests, the function's digest and
the time. Records are signed by the host and chained: each holds the digest of the line before, so
that nobody can take one out of the middle or change it. What the chain does not show: records cut
off at the end, and a host that never wrote one. Left out: HTTP and files (`loyal.app.guarded`).
"""

from __future__ import annotations

import io
import tokenize
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal, get_args

from loyal import encoding, signing
from loyal.control.functions import SLOT, ControlFunction
from loyal.control.worker import plain
from loyal.errors import ControlError, EncodingError, SignatureError, UsageError
from loyal.protocol.answers import message_digest
from loyal.signing import PublicKey, Signed, SigningKey

PURPOSE = "loyal control mismatch 1"
"""Of the records' signatures and digests."""
START = bytes(32)
"""What the first record holds in place of a digest."""

Sent = Literal["replaced", "watched", "failed", "withheld"]
"""What the user got: the exact reply; the model's; the model's where the function failed; none
where it failed."""

MOST_KEPT = 4096
"""Replies of functions that are kept, so that the same prompt is not put to them again."""


@dataclass(frozen=True)
class Exact:
    """What a function says to a prompt."""

    function: ControlFunction
    reply: str | None
    """None where the function failed."""
    why: str = ""
    """Why it failed, in a line."""


class Outline:
    """The fixed words of a function's templates.

    Law: what the function reads, `may_read` passes.
    """

    def __init__(self, function: ControlFunction) -> None:
        own = function.form == "py" and _defines_domain(function.source.decode())
        self._pieces = (
            None if own else tuple(_pieces(one) for one in function.header.templates)
        )  # None: it reads prompts in its own way

    def may_read(self, folded: str) -> bool:
        """Whether a prompt, as `folded` gives it, has some template's words in their order."""
        return self._pieces is None or any(_fits(folded, one) for one in self._pieces)


class Guard:
    """The functions of a community, ready to be asked by several threads."""

    def __init__(self, functions: Sequence[ControlFunction]) -> None:
        """UsageError without any, or with an unsigned one: what overrules a model is signed."""
        unsigned = next((one.name for one in functions if one.signer is None), None)
        if not functions or unsigned is not None:
            raise UsageError(
                f"the control function {unsigned} is not signed" if functions else "no function",
                hint="give files that 'loyal control sign' wrote",
            )
        self._outlines = tuple((one, Outline(one)) for one in functions)
        self._kept: OrderedDict[str, Exact | None] = OrderedDict()
        self._lock = Lock()

    def may_read(self, text: str) -> bool:
        """Whether a prompt could be in a domain; False is certain, and cheap."""
        words = folded(text)
        return any(outline.may_read(words) for _, outline in self._outlines)

    def exact(self, text: str) -> Exact | None:
        """What the function says that has the prompt in its domain; None outside of all.

        A function that fails is an answer too, and one that is not kept. It blocks for as long as
        the sandbox takes.
        """
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
        found, words = None, folded(text)
        for function, outline in self._outlines:
            if outline.may_read(words):
                try:
                    reply = function.expected_all([text])[0]
                except ControlError as error:
                    return Exact(function, None, str(error))
                if reply is not None:
                    found = Exact(function, reply)
                    break
        with self._lock:
            self._kept[text] = found
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return found


@dataclass(frozen=True)
class Mismatch:
    """A reply that was not what a function says, or a function that could not say."""

    function: bytes
    """The function's digest, 32 bytes."""
    prompt: bytes
    """`message_digest` of the prompt."""
    exact: bytes
    """`message_digest` of the function's reply; empty where it failed."""
    reply: bytes
    """`message_digest` of the model's reply, as it came; empty where there was none."""
    sent: Sent
    at: int
    """Unix seconds of the host's clock."""

    @classmethod
    def of(cls, exact: Exact, prompt: str, reply: str | None, sent: Sent, at: int) -> Mismatch:
        """The record of one reply."""
        said = b"" if exact.reply is None else message_digest(exact.reply)
        got = b"" if reply is None else message_digest(reply)
        return cls(exact.function.digest, message_digest(prompt), said, got, sent, at)

    def names(self, function: ControlFunction, prompt: str) -> bool:
        """Whether it is a record of this function and prompt. For those who know the prompt."""
        return (self.function, self.prompt) == (function.digest, message_digest(prompt))

    def repeats(self, function: ControlFunction, prompt: str) -> bool:
        """Whether the function, run now, says what the record has as its reply, or fails as it did.

        ControlError where it fails, and the record has a reply.
        """
        try:
            reply = function.expected_all([prompt])[0]
        except ControlError:
            if self.exact:
                raise
            return True
        return self.exact == (b"" if reply is None else message_digest(reply))


@dataclass(frozen=True)
class Line:
    """One line of an evidence file."""

    mismatch: Mismatch
    before: bytes
    """The digest of the line before."""
    host: PublicKey
    digest: bytes
    """Of this line; the next one holds it."""


def written(mismatch: Mismatch, before: bytes, key: SigningKey) -> bytes:
    """The signed line of a record, without its end; `before` is the digest of the line before."""
    one = mismatch
    record: list[encoding.Encodable] = [
        1, one.function, one.prompt, one.exact, one.reply, one.sent, one.at, before,
    ]  # fmt: skip
    return signing.sign(key, record, PURPOSE).to_bytes().hex().encode()


def line_digest(line: bytes) -> bytes:
    """32 bytes over a line."""
    return encoding.digest(line, PURPOSE)


def read(lines: Iterable[bytes], host: PublicKey | None = None) -> list[Line]:
    """The records of an evidence file, each checked.

    1. each line is a record with its signature; 2. it was signed by `host`, or all were by one key;
    3. each holds the digest of the line before. SignatureError or EncodingError for another.
    """
    found: list[Line] = []
    before = START
    for place, line in enumerate(lines, start=1):
        one = _line(line.strip(), place)
        host = host or one.host
        if one.host != host:  # 2
            raise SignatureError(f"line {place} was signed by somebody else", hint=_HINT)
        if one.before != before:  # 3
            raise SignatureError(f"line {place} does not follow the line before it", hint=_HINT)
        before = one.digest
        found.append(one)
    return found


def _line(line: bytes, place: int) -> Line:
    try:
        signed: Signed[encoding.Value] = Signed.from_bytes(bytes.fromhex(line.decode("ascii")))
    except (ValueError, EncodingError):
        raise EncodingError(f"line {place} is no record", hint=_HINT) from None
    match signing.verify(signed, PURPOSE):  # 1
        case [
            1, bytes(function), bytes(prompt), bytes(exact), bytes(reply), str(sent), int(at),
            bytes(before),
        ] if sent in get_args(Sent):  # fmt: skip
            mismatch = Mismatch(function, prompt, exact, reply, sent, at)  # type: ignore[arg-type]
            return Line(mismatch, before, signed.public, line_digest(line))
    raise EncodingError(f"line {place} is no record of a reply", hint=_HINT)


def folded(text: str) -> str:
    """A prompt without case, its white space made single, the marks at its end left out."""
    return _caseless(plain(" ".join(text.split())))


def _pieces(template: str) -> tuple[str, ...]:
    """What stands between a template's slots, in order, without white space at its edges; the first
    and the last may be empty."""
    parts = SLOT.split(" ".join(plain(template).split()))[::2]
    return tuple(_caseless(one.strip()) for one in parts)


def _caseless(text: str) -> str:
    """Without case, as regular expressions see it: they take both Turkish letters for an i."""
    return text.replace("\u0130", "i").replace("\u0131", "i").casefold()


def _fits(words: str, pieces: Sequence[str]) -> bool:
    """Whether the pieces stand in the words in their order, the first at the beginning and the last
    at the end; in linear time, as each is looked for after the one before."""
    first, *between, last = pieces
    if not words.startswith(first) or len(words) < len(first) + len(last):
        return False
    at, end = len(first), len(words) - len(last)
    for piece in between:
        at = words.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return words.endswith(last)


def _defines_domain(source: str) -> bool:
    """Whether a program says the name `domain` anywhere but in comments and texts."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError):
        return True
    return any(unicodedata.normalize("NFKC", one.string) == "domain" for one in tokens)


_HINT = "the file was changed, or is another; ask the host for its own"
