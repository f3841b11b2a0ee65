"""A signed request opens one path, for ten minutes, to whoever signed it."""

from __future__ import annotations

import pytest

from loyal.app.signed_request import authorization, caller
from loyal.errors import ProtocolError
from loyal.signing import SigningKey

NOW = 1_800_000_000
KEY = SigningKey.from_seed(b"prover".ljust(32, b"."))


def test_the_signer_is_named() -> None:
    value = authorization(KEY, "get", "/v1/draws/ab?x=1", NOW)
    for seconds in (NOW - 600, NOW, NOW + 600):
        assert caller(value, "GET", "/v1/draws/ab?x=1", seconds) == KEY.public.data


@pytest.mark.parametrize(
    ("method", "path", "now"),
    [
        ("POST", "/v1/draws/ab", NOW),
        ("GET", "/v1/draws/ac", NOW),
        ("GET", "/v1/draws/ab?x=1", NOW),
        ("GET", "/v1/draws/ab", NOW + 601),
        ("GET", "/v1/draws/ab", NOW - 601),
    ],
)
def test_another_request_is_not_opened(method: str, path: str, now: int) -> None:
    value = authorization(KEY, "GET", "/v1/draws/ab", NOW)
    with pytest.raises(ProtocolError):
        caller(value, method, path, now)


def test_whatever_is_changed_breaks_it() -> None:
    value = authorization(KEY, "GET", "/v1/draws/ab", NOW)
    for at in range(6, len(value), 7):
        letter = "A" if value[at] != "A" else "B"
        with pytest.raises(ProtocolError):
            caller(value[:at] + letter + value[at + 1 :], "GET", "/v1/draws/ab", NOW)
    for text in ("", "Loyal", "Loyal ", "Bearer x", "Loyal é", "Loyal " + "A" * 5000):
        with pytest.raises(ProtocolError):
            caller(text, "GET", "/v1/draws/ab", NOW)


def test_a_body_is_signed_with_its_request() -> None:
    value = authorization(KEY, "POST", "/v1/permissions", NOW, b"{}")
    assert caller(value, "POST", "/v1/permissions", NOW, b"{}") == KEY.public.data
    bare = authorization(KEY, "POST", "/v1/permissions", NOW)
    for signed, body in ((value, b"{ }"), (value, b""), (value, None), (bare, b"{}"), (bare, b"")):
        with pytest.raises(ProtocolError):
            caller(signed, "POST", "/v1/permissions", NOW, body)
