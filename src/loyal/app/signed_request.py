"""Requests that are signed by whoever asks, so that reading needs no account and no password.

    headers = {"Authorization": authorization(key, "GET", "/v1/draws/8d…", now)}

The signature covers the method, the path with its query, the second, and the body's digest where
there is a body. It may be repeated for ten minutes, so it is for reading, and for permissions, of
which the same request costs once (P3): what changes something is a signed command
(loyal.protocol.commands).
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from loyal import signing
from loyal.encoding import Encodable, Value
from loyal.errors import EncodingError, ProtocolError, SignatureError
from loyal.protocol.permission import SKEW_SECONDS
from loyal.signing import Signed, SigningKey

PURPOSE = "loyal request 1"
SCHEME = "Loyal "
MOST_LETTERS = 4_096


def authorization(
    key: SigningKey, method: str, path: str, now: int, body: bytes | None = None
) -> str:
    """The value of the header `Authorization`; `path` with its query, `now` in Unix seconds."""
    record: list[Encodable] = [method.upper(), path, now]
    if body is not None:
        record.append(hashlib.sha256(body).digest())
    signed = signing.sign(key, record, PURPOSE)
    return SCHEME + base64.urlsafe_b64encode(signed.to_bytes()).rstrip(b"=").decode()


def caller(value: str, method: str, path: str, now: int, body: bytes | None = None) -> bytes:
    """Whose key signed this request, with this body where there is one; 32 bytes.

    ProtocolError for a header that is none, of another request, or more than ten minutes off.
    """
    if not value.startswith(SCHEME) or len(value) > MOST_LETTERS:
        raise _refused("the request is not signed")
    text = value.removeprefix(SCHEME).encode()
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
        signed = Signed[Value].from_bytes(data)
        record = signing.verify(signed, PURPOSE)
    except (ValueError, binascii.Error, EncodingError, SignatureError) as error:
        raise _refused("the request's signature does not hold") from error
    match record:
        case [str(verb), str(target), int(seconds), *more] if type(seconds) is int:
            if (verb, target) != (method.upper(), path):
                raise _refused("the request was signed for another path")
            if more != ([] if body is None else [hashlib.sha256(body).digest()]):
                raise _refused("the request was signed with another body")
            if abs(now - seconds) > SKEW_SECONDS:
                raise _refused("the request was signed more than ten minutes ago or ahead")
            return signed.public.data
    raise _refused("the request's signature does not hold")


def _refused(message: str) -> ProtocolError:
    return ProtocolError(message, hint="sign this very request, with a clock that is right")
