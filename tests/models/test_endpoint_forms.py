"""Replies in a form: what is sent to a server, and what when it does not know it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from completion_server import Server, echo, running, status

from loyal.errors import EndpointError
from loyal.models import Form, Prompt, Sampling
from loyal.models.endpoint import EndpointModel, Outside

FORM = Form("answer", {"type": "object", "properties": {}, "required": []})
SHAPED = Sampling(form=FORM)
PROMPTS = [Prompt(f"prompt {number}") for number in range(6)]


async def unwaited(_seconds: float) -> None:
    """No test waits."""


@pytest.fixture
def server() -> Iterator[Server]:
    """The fake, up for one test."""
    with running() as fake:
        yield fake


def model_of(server: Server, concurrency: int = 1) -> EndpointModel:
    """A client that does not really wait."""
    return EndpointModel(server.url, "m", concurrency=concurrency, outside=Outside(unwaited))


def formed(server: Server) -> list[bool]:
    """Of each request, whether it asked for a form."""
    return ["response_format" in body for _, body, _ in server.seen]


async def formless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Refuse what asks for a form, as a server that does not know the field."""
    return await (status(400) if "response_format" in body else echo)(request, body)


def test_a_form_is_sent_as_a_strict_schema(server: Server) -> None:
    model_of(server).generate(PROMPTS[:2], SHAPED)
    for _, body, _ in server.seen:
        assert body["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": FORM.schema},
        }
    model_of(server).generate(PROMPTS[:1], Sampling())
    assert formed(server) == [True, True, False]


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_that_does_not_know_forms_is_asked_without_from_then_on(
    server: Server, code: int
) -> None:
    async def refuses(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (status(code) if "response_format" in body else echo)(request, body)

    server.after = refuses
    model = model_of(server)
    replies = [one.text for one in model.generate(PROMPTS, SHAPED)]
    assert replies == [f"you said {one.text}" for one in PROMPTS]
    assert formed(server) == [True, *[False] * len(PROMPTS)]
    model.generate(PROMPTS[:1], SHAPED)
    assert formed(server)[-1] is False, "the next call knows it too"
    model_of(server).generate(PROMPTS[:1], SHAPED)
    assert formed(server)[-2:] == [True, False], "another client finds it out for itself"


def test_requests_side_by_side_are_all_answered(server: Server) -> None:
    server.after = formless
    model = model_of(server, concurrency=4)
    replies = [one.text for one in model.generate(PROMPTS, SHAPED)]
    assert replies == [f"you said {one.text}" for one in PROMPTS]
    assert 1 <= sum(formed(server)) <= 4


def test_a_prompt_that_is_refused_without_a_form_too_says_nothing_of_forms(
    server: Server,
) -> None:
    server.after = status(400)
    model = model_of(server)
    with pytest.raises(EndpointError, match="HTTP 400"):
        model.generate(PROMPTS[:1], SHAPED)
    assert formed(server) == [True, False]
    server.after = echo
    model.generate(PROMPTS[:1], SHAPED)
    assert formed(server)[-1] is True


@pytest.mark.parametrize("code", [500, 501])
def test_a_server_that_breaks_at_a_form_is_asked_without(server: Server, code: int) -> None:
    async def breaks(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (status(code) if "response_format" in body else echo)(request, body)

    server.after = breaks
    assert len(model_of(server).generate(PROMPTS, SHAPED)) == len(PROMPTS)
    assert formed(server) == [True, *[False] * len(PROMPTS)]


def test_who_took_a_form_once_is_asked_for_it_whatever_one_prompt_brought(server: Server) -> None:
    model = model_of(server)
    model.generate(PROMPTS[:1], SHAPED)
    server.script = [status(400)]
    assert len(model.generate(PROMPTS[:2], SHAPED)) == 2
    assert formed(server) == [True, True, False, True]
    server.script = [status(500)]
    model.generate(PROMPTS[:1], SHAPED)  # other trouble by now: the same request again
    assert formed(server)[-2:] == [True, True]


def test_other_trouble_is_not_taken_for_an_unknown_form(server: Server) -> None:
    server.script = [status(503), status(429)]
    model = model_of(server)
    model.generate(PROMPTS[:1], SHAPED)
    assert formed(server) == [True, True, True]
    for refusal in (
        status(400, '{"error": {"code": "context_length_exceeded"}}'), status(401), status(404),
    ):  # fmt: skip
        server.script = [refusal]
        with pytest.raises(EndpointError, match="answered HTTP 4"):
            model.generate(PROMPTS[:1], SHAPED)
    assert formed(server) == [True] * 6
    server.script = [status(400), status(503)]
    model.generate(PROMPTS[:1], SHAPED)
    assert formed(server)[6:] == [True, False, True], "what is unknown is asked again whole"


def test_a_raw_prompt_has_no_form(server: Server) -> None:
    raw = Prompt("once", raw=True)
    replies = model_of(server).generate([raw, PROMPTS[0]], SHAPED)
    assert [one.text for one in replies] == ["once!", "you said prompt 0"]
    asked = {path: "response_format" in body for path, body, _ in server.seen}
    assert asked == {"/v1/completions": False, "/v1/chat/completions": True}


def test_a_form_changes_no_name_that_a_state_goes_by() -> None:
    assert repr(SHAPED) == repr(Sampling())
    assert len({SHAPED, Sampling(form=FORM)}) == 1
