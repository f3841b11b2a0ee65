"""The guarded path of a host: the community's functions beside the model, reply by reply.

`Guarded` is an ASGI app around the model server, under the gateway: what it sends is what the host
then signs. For a query whose last prompt is in a function's domain

1. the function is asked, in its sandbox;
2. the model server is asked as ever, and each reply is compared with the function's, without white
   space at its ends;
3. a reply that differs is noted in the evidence file, on the disk, before its end is sent;
4. in the mode `replace` the user gets the function's reply in its place, in the form that was asked
   for; a stream is held until then. In the mode `watch` the model's reply goes by as it comes.

A prompt outside costs one look at the templates; nothing of its reply is touched or held. Where a
function fails, `closed` answers 503 and `open` lets the model's reply go; both are noted. Where the
file cannot be written, `closed` sends nothing more. Left out: functions, and what a record holds
(`loyal.control.guard`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loyal.app.asgi import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    replay,
    to_json,
)  # fmt: skip
from loyal.app.openai_form import CHAT, RAW, Refused, StreamedReply, last_prompts, reply_texts
from loyal.control.guard import START, Exact, Guard, Mismatch, Sent, line_digest, written
from loyal.errors import StorageError
from loyal.signing import SigningKey

Mode = Literal["replace", "watch"]
Failing = Literal["closed", "open"]

_FAILED = Refused(503, "control_failed", "the community's function for this query failed")
_UNWRITTEN = Refused(503, "evidence_unavailable", "the host cannot note evidence now")
_TOO_LONG = Refused(502, "reply_too_long", "the model server's reply is too long")

_log = logging.getLogger("loyal.guard")


class Evidence:
    """The evidence file of a host, open for more lines; one process has it at a time."""

    def __init__(self, path: Path, key: SigningKey) -> None:
        """Made where there is none. A last line without an end was never acknowledged: it is cut
        off. StorageError where the file cannot be had."""
        self._key = key
        self._lock = asyncio.Lock()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            os.ftruncate(self._file, whole)
            os.lseek(self._file, 0, os.SEEK_END)
        except BlockingIOError:
            raise StorageError(
                f"{path} is another process's", hint="give each gateway a file of its own"
            ) from None
        except OSError as error:
            raise StorageError(
                f"cannot open {path}: {error.strerror}", hint="check the path and its owner"
            ) from None
        lines = data[:whole].splitlines()
        self._before, self._size = line_digest(lines[-1]) if lines else START, whole

    async def note(self, mismatches: Sequence[Mismatch]) -> None:
        """Append records; they are on the disk when this returns. StorageError where not."""
        async with self._lock:
            await asyncio.to_thread(self._append, mismatches)

    def _append(self, mismatches: Sequence[Mismatch]) -> None:
        before, data = self._before, b""
        for one in mismatches:
            line = written(one, before, self._key)
            before, data = line_digest(line), data + line + b"\n"
        try:
            done = os.pwrite(self._file, data, self._size)
            if done < len(data):
                raise OSError(None, "the disk is full")
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise StorageError(
                f"cannot note evidence: {error.strerror}", hint="free some space on the disk"
            ) from None
        self._before, self._size = before, self._size + len(data)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)


@dataclass(frozen=True)
class GuardSettings:
    """How a host guards."""

    mode: Mode = "replace"
    failing: Failing = "closed"
    """What a failing function, or a file that cannot be written, does to the query."""
    most_bytes: int = 16 << 20
    """Longest request body."""
    most_reply_bytes: int = 64 << 20
    """Longest reply in a domain, whole or held."""


@dataclass(frozen=True)
class _Asked:
    """One prompt of a query, and what its function says; None outside of all domains."""

    prompt: str
    exact: Exact | None


class Guarded:
    """The model server behind its guard. Belongs to one event loop."""

    def __init__(
        self,
        app: App,
        guard: Guard,
        evidence: Evidence,
        clock: Callable[[], int],
        settings: GuardSettings | None = None,
    ) -> None:
        """`clock` gives Unix seconds."""
        self._app, self._guard, self._evidence, self._clock = app, guard, evidence, clock
        self._settings = settings or GuardSettings()
        self._room = asyncio.Semaphore(max(2, os.cpu_count() or 1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] not in (CHAT, RAW) or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await read_body(receive, self._settings.most_bytes)
        asked = [await self._ask(one) for one in last_prompts(scope["path"], body)]
        again = replay(body, receive)
        if all(one.exact is None for one in asked):
            await self._app(scope, again, send)
            return
        failed = [one for one in asked if one.exact is not None and one.exact.reply is None]
        for one in failed:
            assert one.exact is not None
            _log.warning("the function %s failed", one.exact.function.name)
        if failed and self._settings.failing == "closed":
            await self.note([self._record(one, None, "withheld") for one in failed])
            raise _FAILED
        held = _Held(self, asked, send, self._settings)
        onward = dict(scope)
        onward["headers"] = [one for one in scope["headers"] if one[0] != b"accept-encoding"]
        await self._app(onward, again, held.send)

    async def _ask(self, prompt: str) -> _Asked:
        """Step 1. Whatever could be in a domain is put to its function in a thread."""
        if not self._guard.may_read(prompt):
            return _Asked(prompt, None)
        async with self._room:
            return _Asked(prompt, await asyncio.to_thread(self._guard.exact, prompt))

    async def compare(self, asked: Sequence[_Asked], replies: Sequence[str]) -> list[str | None]:
        """Steps 2 and 3: what to send in place of each reply; None for the reply itself."""
        each = max(1, len(replies) // max(1, len(asked)))  # `n` choices a prompt, in their order
        found: list[str | None] = []
        records: list[Mismatch] = []
        for place, reply in enumerate(replies):
            one = asked[min(place // each, len(asked) - 1)]
            exact = None if one.exact is None else one.exact.reply
            replaced = exact is not None and reply.strip() != exact
            found.append(exact if replaced and self._settings.mode == "replace" else None)
            if one.exact is not None and (replaced or exact is None):
                sent: Sent = "failed" if exact is None else "watched"
                records.append(self._record(one, reply, "replaced" if found[-1] else sent))
        await self.note(records)
        return found

    async def note(self, records: Sequence[Mismatch]) -> None:
        """Write records. Refused (503) where they cannot be, and the host fails closed."""
        if not records:
            return
        try:
            await self._evidence.note(records)
        except StorageError as error:
            _log.error("%s; %s", error, error.hint)
            if self._settings.failing == "closed":
                raise _UNWRITTEN from None

    def _record(self, one: _Asked, reply: str | None, sent: Sent) -> Mismatch:
        assert one.exact is not None
        return Mismatch.of(one.exact, one.prompt, reply, sent, self._clock())


class _Held:
    """A reply in a domain on its way: held until it is whole, except for a stream in `watch`."""

    def __init__(
        self, core: Guarded, asked: Sequence[_Asked], send: Send, settings: GuardSettings
    ) -> None:
        self._core, self._asked, self._send, self._settings = core, asked, send, settings
        self._start: Message = {}
        self._body = bytearray()
        self._stream: StreamedReply | None = None

    async def send(self, message: Message) -> None:
        """Take one message of the app."""
        if message["type"] == "http.response.start":
            self._start = message
            self._body.clear()
            kind = header(message.get("headers", ()), b"content-type").lower()
            streams = message["status"] == 200 and kind.startswith(b"text/event-stream")
            self._stream = StreamedReply() if streams else None
            if self._passes:
                await self._send(message)
        elif message["type"] == "http.response.body":
            await self._take(message.get("body", b""), message.get("more_body", False))

    @property
    def _passes(self) -> bool:
        return self._stream is not None and self._settings.mode == "watch"

    async def _take(self, body: bytes, more: bool) -> None:
        if self._stream is not None:
            self._stream.feed(body)
        if self._passes:
            if not more and self._stream is not None:
                await self._core.compare(self._asked, self._stream.texts())
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            return
        self._body += body
        if len(self._body) > self._settings.most_reply_bytes:
            self._body.clear()
            raise _TOO_LONG
        if not more:
            await self._send_whole(bytes(self._body))

    async def _send_whole(self, body: bytes) -> None:
        """Step 4."""
        start = self._start
        streamed = self._stream is not None
        texts: list[str] | None = None
        if self._stream is not None:
            texts = self._stream.texts()
        elif start["status"] == 200:
            texts = reply_texts(body)
        if texts is not None:
            instead = await self._core.compare(self._asked, texts)
            if any(one is not None for one in instead):
                said = [
                    text if one is None else one for one, text in zip(instead, texts, strict=True)
                ]
                body = _streamed(body, said) if streamed else _whole(body, instead)
                kept = [
                    one for one in start.get("headers", ())
                    if one[0].lower() not in (b"content-length", b"etag", b"content-md5")
                ]  # fmt: skip
                length = (b"content-length", str(len(body)).encode())
                start = {**start, "headers": kept if streamed else [*kept, length]}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _whole(body: bytes, instead: Sequence[str | None]) -> bytes:
    """The answer with these texts in place of its choices', by index."""
    answer = json.loads(body)
    ordered = sorted(answer["choices"], key=lambda one: one.get("index", 0))
    for choice, text in zip(ordered, instead, strict=True):
        if text is None:
            continue
        if choice.get("message") is not None:
            role = choice["message"].get("role", "assistant")
            choice["message"] = {"role": role, "content": text}
        else:
            choice["text"] = text
        choice["finish_reason"] = "stop"
        if "logprobs" in choice:
            choice["logprobs"] = None
    return to_json(answer)


def _streamed(body: bytes, said: Sequence[str]) -> bytes:
    """A stream that says these texts, in the words of the one that came: its id, its model, its
    count of tokens."""
    pieces = [json.loads(one) for one in _data(body)]
    first = next((one for one in pieces if one.get("choices")), {"object": "chat.completion.chunk"})
    chat = "text" not in (first.get("choices") or [{}])[0]
    frame = {name: value for name, value in first.items() if name not in ("choices", "usage")}
    found: list[dict[str, Any]] = []
    for index, text in enumerate(said):
        told: dict[str, Any] = (
            {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
        )
        ended: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        for part, reason in ((told, None), (ended, "stop")):
            found.append({**frame, "choices": [{"index": index, **part, "finish_reason": reason}]})
    found += [one for one in pieces if one.get("choices") == [] and one.get("usage")]
    events = [b"data: " + to_json(one) for one in found] + [b"data: [DONE]"]
    return b"\n\n".join(events) + b"\n\n"


def _data(body: bytes) -> list[bytes]:
    """The JSON objects of a stream's events."""
    lines = body.replace(b"\r", b"\n").split(b"\n")
    data = [one[5:].strip() for one in lines if one.startswith(b"data:")]
    return [one for one in data if one.startswith(b"{")]
