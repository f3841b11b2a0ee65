"""Requests made at random from the platform's own OpenAPI page: none breaks it, none changes it.

Schemathesis makes them, valid and invalid ones, against a real server in a thread. Left out: what
right requests do (test_platform_http.py).
"""

from __future__ import annotations

import asyncio
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from platform_stage import Played, played
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from loyal.app.access import Rate
from loyal.app.http import HttpLimits
from loyal.protocol.commands import sign_command
from loyal.protocol.stake import Bond

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = int(os.environ.get("LOYAL_FUZZ_EXAMPLES", "12"))
"""Requests of each kind a route; benchmarks/fuzz.py makes more."""
FREE = HttpLimits(address=Rate(1e6, 1e6))
OPERATIONS = (
    "POST /v1/permissions",
    "POST /v1/commands",
    "GET /v1/platform",
    "GET /v1/log/checkpoint",
    "GET /v1/log/entries",
    "GET /v1/log/inclusion",
    "GET /v1/log/consistency",
    "GET /v1/licenses/{license}",
    "GET /v1/licenses/{license}/file",
    "GET /v1/accounts/{party}",
    "GET /v1/disputes",
    "GET /v1/disputes/{claim}",
    "GET /v1/draws/{license}",
    "GET /v1/claims/{claim}/evidence",
    "GET /health",
)


@schemathesis.serializer("application/cbor")
def _cbor(_: schemathesis.SerializationContext, value: object) -> bytes:
    """Any value as the bytes of a body."""
    return bytes(value) if isinstance(value, (bytes, bytearray)) else repr(value).encode()


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """A platform in a thread of its own."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    ready, found = threading.Event(), []
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def whole() -> None:
        async with played(folder, FREE) as one:
            found.append(one)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(whole()), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield found[0]
    loop.call_soon_threadsafe(done.set)
    thread.join(20)
    loop.close()


def test_the_page_has_every_route(play: Played) -> None:
    schema = schemathesis.openapi.from_url(f"{play.url}/openapi.json")
    labels = [one.ok().label for one in schema.get_all_operations()]
    assert sorted(labels) == sorted(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_breaks_it_or_changes_it(play: Played, label: str) -> None:
    schema = schemathesis.openapi.from_url(f"{play.url}/openapi.json")
    (operation,) = [one.ok() for one in schema.get_all_operations() if one.ok().label == label]
    before = play.platform.state.length
    key = {"Authorization": f"Bearer {play.api_key}"}
    headers = key if label.endswith("/permissions") else {}
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            response = case.call(base_url=play.url, headers=headers)
            case.validate_response(response, checks=CHECKS)

        try:
            ask()
        except Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE, "no valid request can be made"
    assert play.platform.state.length == before


def test_a_fault_would_be_seen(play: Played) -> None:
    page = schemathesis.openapi.from_url(f"{play.url}/openapi.json").raw_schema
    said = page["paths"]["/v1/platform"]["get"]["responses"]
    said["204"] = said.pop("200")
    case = schemathesis.openapi.from_dict(page)["/v1/platform"]["GET"].Case()
    with pytest.raises(FailureGroup, match="Undocumented status code"):
        case.validate_response(case.call(base_url=play.url), checks=CHECKS)


def test_a_signed_command_that_was_changed_anywhere_is_none(play: Played) -> None:
    stage, length = play.stage, play.platform.state.length
    command = Bond(stage.id("member"), "prover", 1_000_000)
    whole = sign_command(stage.key("member"), stage.id("platform"), command, 2**40).to_bytes()

    def post(data: bytes) -> int:
        request = urllib.request.Request(f"{play.url}/v1/commands", data=data, method="POST")
        try:
            with urllib.request.urlopen(request) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255))
    def changed(place: int, bits: int) -> None:
        data = bytearray(whole)
        data[place] ^= bits
        assert post(bytes(data)) in (400, 422)

    changed()
    assert play.platform.state.length == length
    assert post(whole) == 200
