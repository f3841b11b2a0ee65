"""The small model server: OpenAI's form in, OpenAI's form out, and one line for all else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from stand_ins import ScriptedModel

from loyal.app.model_server import ModelServer
from loyal.models import Prompt


def ask(
    server: ModelServer, path: str, body: Any, method: str = "POST"
) -> tuple[int, dict[str, Any]]:
    """One request through ASGI."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": []}
    asyncio.run(server(scope, receive, send))
    return said[0]["status"], json.loads(said[1]["body"])


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(lambda text: f"{text}!", "the-model")


def test_models_chat_and_completions(model: ScriptedModel) -> None:
    server = ModelServer(model)
    status, listed = ask(server, "/v1/models", {}, "GET")
    assert (status, listed["data"][0]["id"]) == (200, "the-model")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    status, said = ask(server, "/v1/chat/completions", {"messages": turns, "max_tokens": 7})
    assert (status, said["choices"][0]["message"]["content"]) == (200, "Hello!")
    assert (model.asked[-1].system, model.samplings[-1].max_tokens) == ("Be brief.", 7)
    turns += [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And now?"}]
    status, said = ask(server, "/v1/chat/completions", {"messages": turns})
    assert (status, said["choices"][0]["message"]["content"]) == (200, "And now?!")
    assert model.asked[-1] == Prompt("And now?", "Be brief.", history=(("Hello", "Hi."),))
    status, said = ask(server, "/v1/completions", {"prompt": "Once", "temperature": 0.5})
    assert (status, said["choices"][0]["text"]) == (200, "Once!")
    assert model.asked[-1].raw
    assert model.samplings[-1].temperature == 0.5
    server.close()


def test_the_longest_reply_is_the_servers(model: ScriptedModel) -> None:
    server = ModelServer(model, most_tokens=5)
    ask(server, "/v1/completions", {"prompt": "Once", "max_tokens": 500})
    assert model.samplings[-1].max_tokens == 5


USER = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/embeddings", {}, 404),
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b'{"\xff": 1}', 400),
        ("/v1/chat/completions", [], 400),
        ("/v1/chat/completions", {}, 400),
        ("/v1/chat/completions", {"messages": "Hello"}, 400),
        ("/v1/chat/completions", {"messages": [USER, USER]}, 400),
        ("/v1/chat/completions", {"messages": [USER, {"role": "assistant", "content": "x"}]}, 400),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [1]}]}, 400),
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": "x"}]}, 400),
        ("/v1/chat/completions", {"messages": [USER, {"role": "system", "content": "x"}]}, 400),
        ("/v1/chat/completions", {"messages": [USER, "Hello"]}, 400),
        ("/v1/chat/completions", {"messages": [USER], "stream": True}, 400),
        ("/v1/chat/completions", {"messages": [USER], "max_tokens": "many"}, 400),
        ("/v1/chat/completions", {"messages": [USER], "max_tokens": -1}, 400),
        ("/v1/chat/completions", {"messages": [USER], "temperature": -1}, 400),
        ("/v1/chat/completions", {"messages": [USER], "temperature": "hot"}, 400),
        ("/v1/completions", {"prompt": ["a", "b"]}, 400),
        ("/v1/completions", b"x" * (1 << 21), 413),
    ],
)
def test_what_it_cannot_do_is_said(model: ScriptedModel, path: str, body: Any, status: int) -> None:
    found, said = ask(ModelServer(model), path, body)
    assert found == status
    assert "\n" not in said["error"]["message"]
    assert model.asked == []


def test_a_model_that_fails_is_no_crash() -> None:
    server = ModelServer(ScriptedModel(str, breaks_after=0))
    status, said = ask(server, "/v1/completions", {"prompt": "Once"})
    assert (status, said["error"]["code"]) == (400, "not_answered")
