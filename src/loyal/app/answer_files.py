"""Answers that a host signed, as their asker kept them: three forms that one file may have.

The value of a reply's `Loyal-Answer` header, what the host's receipt route says (JSON with
`answers`), or the bytes themselves. Left out: what an answer proves (loyal.protocol.answers). No
error here quotes a file.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from loyal.app.key_files import file_bytes
from loyal.app.platform_client import from_base64url
from loyal.encoding import Value
from loyal.errors import EncodingError, LoyalError, ProtocolError, SignatureError, UsageError
from loyal.protocol import Answer, SignedAnswer
from loyal.protocol.answers import message_digest
from loyal.signing import Signed

_HINT = "keep the header Loyal-Answer, or what the host says at /loyal/receipts/ID"


class _Kept(msgspec.Struct):
    answers: list[str]


def signed_answers(path: Path, option: str) -> list[tuple[SignedAnswer, Answer]]:
    """The answers of a file, each under its signer's own signature; whose that is, is in
    `signed.public`. UsageError for a file that holds none."""
    data = file_bytes(path, option)
    found = []
    for one in _records(data):
        try:
            signed = SignedAnswer(Signed[Value].from_bytes(one))
            found.append((signed, signed.verify(signed.signed.public.data)))
        except (EncodingError, SignatureError, ProtocolError):
            continue
    if not found:
        raise UsageError(f"the file of {option} holds no signed answer", hint=_HINT)
    return found


def _records(data: bytes) -> list[bytes]:
    """The bytes in question; the file's own where it is no text."""
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    texts = [text.removeprefix("Loyal-Answer:").strip()]
    if text.startswith("{"):
        try:
            texts = msgspec.json.decode(text, type=_Kept).answers
        except (msgspec.DecodeError, RecursionError):
            texts = []
    found = [data]
    for one in texts:
        try:
            found.append(from_base64url(one))
        except (ValueError, LoyalError):
            continue
    return found


def message_of(path: Path, option: str, answers: list[Answer]) -> str:
    """The message in a file: byte for byte, or without the newline at its end that editors write,
    whichever one of the answers covers. UsageError where none does."""
    try:
        text = file_bytes(path, option).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"the file of {option} is no text", hint="write it in UTF-8") from None
    covered = {one for answer in answers for one in answer.messages}
    for candidate in (text, text.removesuffix("\n").removesuffix("\r")):
        if message_digest(candidate) in covered:
            return candidate
    raise UsageError(
        f"no answer covers the message of {option}",
        hint="give the user message byte for byte as it was asked",
    )
