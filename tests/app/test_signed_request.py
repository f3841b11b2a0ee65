"""A signed request is its caller's, for one path, one method and ten minutes."""

from __future__ import annotations

import pytest

from loyal.app.signed_request import authorization, caller
from loyal.errors import ProtocolError
from loyal.signing import SigningKey

KEY = SigningKey.generate()
NOW = 1_800_000_000
PATH = "/v1/draws/ab?x=1"


def test_the_caller_is_who_signed() -> None:
    value = authorization(KEY, "GET", PATH, NOW)
    assert value.startswith("Loyal ")
    for now in (NOW - 600, NOW, NOW + 600):
        assert caller(value, "GET", PATH, now) == KEY.public.data


@pytest.mark.parametrize(
    ("method", "path", "now"),
    [("POST", PATH, NOW), ("GET", "/v1/draws/ab", NOW), ("GET", PATH, NOW + 601),
     ("GET", PATH, NOW - 601)],
)  # fmt: skip
def test_it_fits_no_other_request(method: str, path: str, now: int) -> None:
    value = authorization(KEY, "GET", PATH, NOW)
    with pytest.raises(ProtocolError):
        caller(value, method, path, now)


def test_what_is_no_signature_is_refused() -> None:
    value = authorization(KEY, "GET", PATH, NOW)
    changed = value[:-5] + ("A" if value[-5] != "A" else "B") + value[-4:]
    for bad in ("", "Loyal ", "Loyal !", value.replace("Loyal", "Bearer"), value[:-4], changed,
                "Loyal " + "A" * 10_000):  # fmt: skip
        with pytest.raises(ProtocolError):
            caller(bad, "GET", PATH, NOW)
