"""The platform's errors over HTTP, in one form: `{"error": {"rule", "message", "hint"}}`.

Left out: which route answers what. No error shows anything of a request.
"""

from __future__ import annotations

import math

import msgspec

from loyal.app.asgi import Headers, Send, send_json
from loyal.errors import LedgerError, LoyalError, ProtocolError, StorageError, UsageError

_STATUS: tuple[tuple[type[LoyalError], int], ...] = (
    (ProtocolError, 422),
    (StorageError, 503),
    (LedgerError, 503),
    (UsageError, 400),
)


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(
        self, status: int, message: str, hint: str, rule: str = "", headers: Headers | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.hint, self.rule = status, message, hint, rule
        self.headers: Headers = headers or []

    def body(self) -> bytes:
        """The error as JSON."""
        return msgspec.json.encode({"error": error_fields(self.message, self.hint, self.rule)})

    async def send(self, send: Send) -> None:
        """Answer with it."""
        # A body that was not read to its end must not be taken for the next request.
        close: Headers = [(b"connection", b"close")] if self.status in (408, 413, 415) else []
        await send_json(send, self.status, self.body(), [*self.headers, *close])


def error_fields(message: str, hint: str, rule: str = "") -> dict[str, str | None]:
    """What stands under `error`."""
    return {"rule": rule or None, "message": message, "hint": hint}


def problem_of(error: LoyalError) -> Problem:
    """How an error of ours is answered: 422 for a rule, 503 for the store, 400 for a wrong call."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status == 503:  # what a database says is for its operator
        headers: Headers = [(b"retry-after", b"1")]
        return Problem(
            503, "the platform cannot keep or read its log now", "ask again", "", headers
        )
    rule = error.rule if isinstance(error, ProtocolError) else ""
    return Problem(status, str(error), error.hint, rule)


def too_often(seconds: float) -> Problem:
    """429, with the time to wait."""
    headers: Headers = [(b"retry-after", str(max(1, math.ceil(seconds))).encode())]
    return Problem(429, "this is asked too often", "wait a moment and ask again", "", headers)


def unexpected() -> Problem:
    """500; the platform's log says where."""
    return Problem(500, "the platform failed", "ask again; its operator finds the place in the log")
