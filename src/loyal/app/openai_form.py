"""What the gateway reads of OpenAI's form: the messages of a request, the replies of an answer.

Bodies are never written again, only read, so what is sent on is what was received. What is read
must be what the model server will read: a body that two parsers could take for two different ones
(a name twice, or in two cases) is refused. Everything that cannot be covered by a permission is
refused too. No error shows anything of a body.

Left out: HTTP (`gateway`), and every field that names no message and no reply.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from loyal.protocol.permission import MOST_MESSAGES

CHAT, RAW = "/v1/chat/completions", "/v1/completions"
"""The two routes that answer queries."""

MOST_EVENT_BYTES = 4 << 20
"""Longest line of a stream that is kept to be read; a longer one is sent on unread."""

_READ_NAMES = frozenset({"messages", "prompt", "role", "content", "type", "text"})
_HINT_TEXT = "send text: a string, or a list of parts of the type text"


class Refused(Exception):
    """A request that is answered with an error in OpenAI's form."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def body(self) -> bytes:
        """The error as JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return msgspec.json.encode({"error": error})


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Chat(msgspec.Struct):
    messages: list[_Message]


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Completion(msgspec.Struct):
    prompt: msgspec.Raw


_CHAT = msgspec.json.Decoder(_Chat)
_COMPLETION = msgspec.json.Decoder(_Completion)
_TEXT: msgspec.json.Decoder[str | list[_Part]] = msgspec.json.Decoder(str | list[_Part])
_PROMPT: msgspec.json.Decoder[str | list[str]] = msgspec.json.Decoder(str | list[str])


def covered_texts(path: str, body: bytes) -> list[str]:
    """Every text that a permission for this request covers, in order, exactly as received.

    For a chat each user message, or each text part of one; for a completion the prompt, or each of
    them. Refused (400) for anything else.
    """
    try:
        texts = _chat_texts(body) if path == CHAT else _prompts(body)
        json.loads(body, object_pairs_hook=_read_once)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Refused(400, "invalid_body", f"the body is not a request for {path}") from None
    if not texts:
        raise Refused(400, "no_user_message", "the request has no user message")
    return texts


def last_prompts(path: str, body: bytes) -> list[str]:
    """What the replies are to: of a chat the last message, where it is a user's (its text parts,
    each on a line of its own); of a completion each prompt. For bodies that `covered_texts` took;
    nothing for any other."""
    try:
        if path != CHAT:
            return _prompts(body)
        last = _CHAT.decode(body).messages[-1]
        if last.role != "user":
            return []
        content = _TEXT.decode(last.content)
    except (msgspec.DecodeError, ValueError, RecursionError, IndexError, Refused):
        return []
    if isinstance(content, str):
        return [content]
    return ["\n".join(part.text or "" for part in content)]


def latest(texts: Sequence[str]) -> list[str]:
    """What one permission holds of a long conversation: the last messages."""
    return list(texts[-MOST_MESSAGES:])


def _chat_texts(body: bytes) -> list[str]:
    texts: list[str] = []
    for message in _CHAT.decode(body).messages:
        if message.role != "user":
            continue
        try:
            content = _TEXT.decode(message.content)
        except msgspec.ValidationError:
            raise Refused(400, "not_text", f"a user message is not text; {_HINT_TEXT}") from None
        if isinstance(content, str):
            texts.append(content)
            continue
        for part in content:
            if part.type != "text" or part.text is None:
                raise Refused(
                    400, "not_text", f"a part of a user message is not text; {_HINT_TEXT}"
                )
            texts.append(part.text)
    return texts


def _prompts(body: bytes) -> list[str]:
    try:
        prompt = _PROMPT.decode(_COMPLETION.decode(body).prompt)
    except msgspec.ValidationError:
        raise Refused(400, "not_text", "the prompt is not a string or a list of strings") from None
    return [prompt] if isinstance(prompt, str) else prompt


def _read_once(pairs: list[tuple[str, Any]]) -> None:
    """Some parsers take the first of two equal names, some the last, some mind no case."""
    seen: set[str] = set()
    for name, _ in pairs:
        folded = name.casefold()
        if folded in _READ_NAMES:
            if folded in seen:
                raise Refused(400, "ambiguous_body", "a name stands twice in one object")
            seen.add(folded)


class _Said(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Said | None = None
    delta: _Said | None = None
    text: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


_ANSWER = msgspec.json.Decoder(_Answer)


def reply_texts(body: bytes) -> list[str] | None:
    """The text of each choice of a whole answer, by index; None for what is no answer."""
    try:
        choices = _ANSWER.decode(body).choices
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    said = {one.index: one.message.content if one.message else one.text for one in choices}
    return [said[index] or "" for index in sorted(said)] or None


class StreamedReply:
    """Reads the replies out of server-sent events while their bytes go by.

    Law: however the bytes are cut into chunks, the texts are the same.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._parts: dict[int, list[str]] = {}
        self.ended = False
        """Whether the stream said that it was whole."""

    def feed(self, chunk: bytes) -> None:
        """Take note of the next bytes."""
        self._line += chunk
        if b"\n" not in chunk and b"\r" not in chunk:
            if len(self._line) > MOST_EVENT_BYTES:
                self._line.clear()
            return
        lines = self._line.replace(b"\r", b"\n").split(b"\n")
        self._line = lines.pop()
        for line in lines:
            self._read(bytes(line))

    def texts(self) -> list[str]:
        """The text of each choice so far, by index; one empty text where nothing was said."""
        return ["".join(self._parts[index]) for index in sorted(self._parts)] or [""]

    def _read(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self.ended = True
            return
        try:
            choices = _ANSWER.decode(data).choices
        except (msgspec.DecodeError, ValueError, RecursionError):
            return
        for one in choices:
            said = one.delta.content if one.delta else one.text
            self._parts.setdefault(one.index, []).append(said or "")
