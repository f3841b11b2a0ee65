"""Who asks: a request to the platform that carries its caller's signature in a header.

`Authorization: Loyal BASE64URL` is a signed record of method, path with its query, and time, for
one purpose. So it fits no other request, and none later than ten minutes. Left out: bodies (a
command is signed itself), TLS, and repeating within these minutes, which only reads again.
"""

from __future__ import annotations

from loyal import signing
from loyal.app.platform_client import from_base64url, to_base64url
from loyal.encoding import Value
from loyal.errors import EncodingError, ProtocolError, SignatureError
from loyal.protocol.permission import SKEW_SECONDS
from loyal.signing import Signed, SigningKey

PURPOSE = "loyal request 1"
SCHEME = "Loyal "
MOST_LETTERS = 4_096


def authorization(key: SigningKey, method: str, path: str, now: int) -> str:
    """The header's value. `path` with its query, as it is sent; `now` in Unix seconds."""
    signed = signing.sign(key, [method, path, now], PURPOSE)
    return f"{SCHEME}{to_base64url(signed.to_bytes())}"


def caller(value: str, method: str, path: str, now: int) -> bytes:
    """The public key (32 bytes) of whoever signed this very request.

    ProtocolError where nobody did: another scheme, method or path, a signature that does not hold,
    or a time more than 600 seconds away.
    """
    if value.startswith(SCHEME) and len(value) <= MOST_LETTERS:
        try:
            signed = Signed[Value].from_bytes(from_base64url(value.removeprefix(SCHEME)))
            record = signing.verify(signed, PURPOSE)
        except (ValueError, SignatureError, EncodingError):
            record = None
        match record:
            case [str(said), str(where), int(when)] if (said, where) == (method, path):
                if abs(when - now) <= SKEW_SECONDS:
                    return signed.public.data
                raise ProtocolError(
                    "the request was signed at another time",
                    hint="set the clock, and ask again",
                )
    raise ProtocolError(
        "the request is not signed by its caller", hint="sign it with the party's own key"
    )
