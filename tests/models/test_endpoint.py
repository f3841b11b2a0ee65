"""The client of OpenAI-compatible servers, against one real server with scripted behaviors.

The server runs on 127.0.0.1; waits and the clock are injected, so no test takes long.
Left out: a real model behind the server (the journeys), and what a proxy or TLS would add.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from completion_server import (
    Behavior,
    Server,
    answer,
    chat_answer,
    echo,
    hang_up,
    never,
    running,
    status,
    stop_midway,
    text,
)

from loyal.errors import EndpointError, UsageError
from loyal.models.endpoint import EndpointModel, Outside, Patience, root_url
from loyal.models.language_model import LanguageModel, Prompt, Reply, Sampling

SECRET_KEY = "sk-planted-api-key"
SECRET_PROMPT = "planted prompt xylophone"
NOW = 1_800_000_000.0


@pytest.fixture
def server() -> Iterator[Server]:
    """The fake, up for one test."""
    with running() as fake:
        yield fake


@dataclass
class Clock:
    """Time that passes only when somebody sleeps."""

    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        """Note the wait and return at once."""
        self.waits.append(seconds)


def model_of(server: Server, clock: Clock | None = None, **patience: Any) -> EndpointModel:
    """A client that does not really wait."""
    outside = Outside((clock or Clock()).sleep, lambda: NOW, random.Random(0))
    return EndpointModel(
        server.url,
        "a-model",
        api_key=SECRET_KEY,
        patience=Patience(**patience),
        outside=outside,
    )


def ask(model: EndpointModel, *texts: str) -> list[str]:
    """The replies to these chat prompts."""
    return [one.text for one in model.generate([Prompt(one) for one in texts], Sampling())]


def refused(model: EndpointModel) -> EndpointError:
    """The error that a secret prompt ends in; it and its hint show no secret and are one line."""
    with pytest.raises(EndpointError) as caught:
        ask(model, SECRET_PROMPT)
    shown = f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert "\n" not in shown
    assert SECRET_KEY not in shown
    assert "xylophone" not in shown
    return caught.value


def test_a_chat_prompt_goes_to_the_chat_route(server: Server) -> None:
    model = model_of(server)
    prompt = Prompt("hello", system="Be brief.")
    assert model.generate([prompt], Sampling(max_tokens=7, seed=3)) == [
        Reply("you said hello", 3, True)
    ]
    path, body, headers = server.seen[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert (body["model"], body["stream"], body["max_tokens"]) == ("a-model", False, 7)
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.0, 1.0, 3)
    assert headers["Authorization"] == f"Bearer {SECRET_KEY}"


def test_earlier_turns_are_sent_in_order(server: Server) -> None:
    prompt = Prompt("and now?", "Be brief.", history=(("hello", "hi"), ("well?", "fine")))
    assert model_of(server).generate([prompt], Sampling())[0].text == "you said and now?"
    turns = [(one["role"], one["content"]) for one in server.seen[0][1]["messages"]]
    assert turns == [
        *(("system", "Be brief."), ("user", "hello"), ("assistant", "hi")),
        *(("user", "well?"), ("assistant", "fine"), ("user", "and now?")),
    ]


def test_without_system_seed_and_key_none_is_sent(server: Server) -> None:
    EndpointModel(server.url, "a-model").generate([Prompt("hello")], Sampling())
    _, body, headers = server.seen[0]
    assert [one["role"] for one in body["messages"]] == ["user"]
    assert "seed" not in body
    assert "Authorization" not in headers


def test_a_raw_prompt_goes_to_the_completion_route(server: Server) -> None:
    replies = model_of(server).generate([Prompt("once", raw=True)], Sampling())
    assert replies == [Reply("once!", 0, False)]
    assert server.seen[0][0] == "/v1/completions"


def test_it_is_a_language_model(server: Server) -> None:
    assert isinstance(model_of(server), LanguageModel)
    assert model_of(server).generate([], Sampling()) == []
    assert server.seen == []


def test_order_is_the_order_of_the_prompts_and_concurrency_is_bounded(server: Server) -> None:
    rng = random.Random(1)

    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(rng.uniform(0, 0.02))
        return await echo(request, body)

    server.after = slowly
    arrived: list[tuple[int, str]] = []
    model = EndpointModel(server.url, "a-model", concurrency=3)
    replies = model.generate(
        [Prompt(str(number)) for number in range(24)],
        Sampling(),
        lambda index, reply: arrived.append((index, reply.text)),
    )
    assert [one.text for one in replies] == [f"you said {number}" for number in range(24)]
    assert sorted(arrived) == [(number, f"you said {number}") for number in range(24)]
    assert server.busiest == 3


def test_answers_before_a_failure_are_handed_over(server: Server) -> None:
    server.script = [echo, echo, status(400)]
    kept: dict[int, str] = {}
    model = EndpointModel(server.url, "a-model", concurrency=1)
    with pytest.raises(EndpointError, match="HTTP 400"):
        model.generate(
            [Prompt(one) for one in "abcde"],
            Sampling(),
            lambda index, reply: kept.update({index: reply.text}),
        )
    assert kept == {0: "you said a", 1: "you said b"}
    assert len(server.seen) == 3


def test_an_error_of_the_listener_reaches_the_caller(server: Server) -> None:
    def full(_index: int, _reply: Reply) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        model_of(server).generate([Prompt("a")], Sampling(), full)


def test_it_works_inside_a_running_event_loop(server: Server) -> None:
    async def inside() -> list[str]:
        return ask(model_of(server), "hello")

    assert asyncio.run(inside()) == ["you said hello"]


@pytest.mark.parametrize(
    "trouble",
    [status(429), status(500), status(503), hang_up, stop_midway],
    ids=["429", "500", "503", "hang up", "truncated"],
)
def test_passing_trouble_is_tried_again(server: Server, trouble: Behavior) -> None:
    server.script = [trouble, trouble]
    clock = Clock()
    assert ask(model_of(server, clock), "hello") == ["you said hello"]
    assert len(server.seen) == 3
    assert len(clock.waits) == 2
    assert 0.25 <= clock.waits[0] <= 0.5 <= clock.waits[1] <= 1.0


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (status(429), "HTTP 429"),
        (status(503), "HTTP 503"),
        (hang_up, "could not be reached"),
        (stop_midway, "broke off"),
    ],
    ids=["429", "503", "hang up", "truncated"],
)
def test_lasting_trouble_ends_after_the_last_attempt(
    server: Server, trouble: Behavior, says: str
) -> None:
    server.after = trouble
    clock = Clock()
    error = refused(model_of(server, clock, attempts=4))
    assert says in str(error)
    assert "4 attempts" in str(error)
    assert len(server.seen) == 4
    assert len(clock.waits) == 3


def test_a_slow_server_times_out_and_is_tried_again(server: Server) -> None:
    server.script = [never]
    assert ask(model_of(server, timeout_seconds=0.3), "hello") == ["you said hello"]
    server.script = [never, never]
    error = refused(model_of(server, timeout_seconds=0.2, attempts=2))
    assert "did not answer in time" in str(error)


def test_a_server_that_is_not_there(server: Server) -> None:
    model = EndpointModel(
        "http://127.0.0.1:1", "a-model", patience=Patience(2), outside=Outside(Clock().sleep)
    )
    assert "could not be reached" in str(refused(model))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("Fri, 15 Jan 2027 08:00:20 GMT", 20.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_the_least_wait(server: Server, header: str, seconds: float) -> None:
    server.script = [status(429, **{"Retry-After": header})]
    clock = Clock()
    ask(model_of(server, clock), "hello")
    (wait,) = clock.waits
    assert wait == seconds if seconds else 0.25 <= wait <= 0.5


def test_a_wait_that_is_too_long_ends_the_call(server: Server) -> None:
    server.script = [status(503, **{"Retry-After": "3600"})]
    clock = Clock()
    error = refused(model_of(server, clock))
    assert "3600 seconds" in str(error)
    assert clock.waits == []


LEAK = json.dumps({"error": {"message": f"{SECRET_PROMPT} {SECRET_KEY}", "code": SECRET_PROMPT}})
KNOWN = json.dumps({"error": {"message": SECRET_PROMPT, "code": "model_not_found"}})


@pytest.mark.parametrize(
    ("behavior", "says", "hint"),
    [
        (status(401, LEAK), "HTTP 401", "API key"),
        (status(403, LEAK), "HTTP 403", "API key"),
        (status(404, LEAK), "HTTP 404", "a-model"),
        (status(404, KNOWN), "HTTP 404 (model_not_found)", "a-model"),
        (status(400, LEAK), "HTTP 400", "context"),
        (status(307, LEAK, Location="http://127.0.0.1:1/v1"), "redirects", "final address"),
        (text("<!DOCTYPE html><p>xylophone</p>", "text/html"), "web page", "/v1"),
        (text("  <html>xylophone"), "web page", "/v1"),
        (text("xylophone"), "not JSON", "OpenAI-compatible"),
        (text(""), "not JSON", "OpenAI-compatible"),
        (text("[" * 200_000), "not JSON", "OpenAI-compatible"),
        (text('{"choices": [], "x": "' + "x" * 5000 + '"}'), "4,096 bytes", "most_bytes"),
        (answer(["xylophone"]), "choices", "OpenAI-compatible"),
        (answer({"error": SECRET_PROMPT}), "choices", "OpenAI-compatible"),
        (answer({"choices": []}), "choices", "OpenAI-compatible"),
        (answer({"choices": [{}]}), "message", "OpenAI-compatible"),
        (answer({"choices": [{"message": {}}]}), "content", "OpenAI-compatible"),
        (answer(chat_answer("", message={"content": 3})), "not a text", "OpenAI-compatible"),
    ],
)
def test_a_useless_answer_is_one_line_and_shows_nothing(
    server: Server, behavior: Behavior, says: str, hint: str
) -> None:
    server.script = [behavior]
    clock = Clock()
    error = refused(model_of(server, clock, most_bytes=4096 if "4,096" in says else 1 << 20))
    assert says in str(error)
    assert hint in error.hint
    assert clock.waits == []
    assert len(server.seen) == 1


def test_a_missing_key_is_advised(server: Server) -> None:
    server.script = [status(401)]
    error = refused(EndpointModel(server.url, "a-model"))
    assert "give one" in error.hint


def test_a_reply_that_says_nothing_is_empty(server: Server) -> None:
    server.script = [answer(chat_answer("", message={"content": None}))]
    assert ask(model_of(server), "hello") == [""]


def test_half_a_character_of_a_reply_is_replaced(server: Server) -> None:
    server.script = [answer(chat_answer("", message={"content": "a\ud83d b \U0001f600"}))]
    assert ask(model_of(server), "hello") == ["a\ufffd b \U0001f600"]


def test_first_token_chances_of_a_chat(server: Server) -> None:
    top = [{"token": "b", "logprob": -2.0}, {"token": "a", "logprob": -0.5}]
    given = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": top}]}
    server.script = [answer(chat_answer("a", logprobs=given))]
    (chances,) = model_of(server).next_token([Prompt("hello")], 2)
    assert [(one.text, one.logprob) for one in chances] == [("a", -0.5), ("b", -2.0)]
    body = server.seen[0][1]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 2, 1)


def test_first_token_chances_of_a_raw_prompt(server: Server) -> None:
    choice = {"text": "a", "logprobs": {"top_logprobs": [{"a": -0.5, "b": -2, "c": -3}]}}
    server.script = [answer({"choices": [choice]})]
    (chances,) = model_of(server).next_token([Prompt("hello", raw=True)], 2)
    assert [(one.text, one.logprob) for one in chances] == [("a", -0.5), ("b", -2.0)]


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"content": []},
        {"content": [{"top_logprobs": []}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": None}]}]},
        {"content": [{"top_logprobs": [{"token": "a", "logprob": float("nan")}]}]},
        {"content": [{"top_logprobs": [{"token": 3, "logprob": -1.0}]}]},
    ],
)
def test_a_server_without_chances_is_an_error(server: Server, given: Any) -> None:
    server.script = [answer(chat_answer("a", logprobs=given))]
    with pytest.raises(EndpointError, match=r"chances|log-probability|token"):
        model_of(server).next_token([Prompt("hello")], 2)


def echoed(*tokens: tuple[str, float | None]) -> Behavior:
    """A raw completion that echoes these tokens and adds one."""
    texts, chances = [one for one, _ in tokens], [chance for _, chance in tokens]
    given = {"tokens": [*texts, " more"], "token_logprobs": [*chances, -9.0]}
    return answer({"choices": [{"text": "", "logprobs": given}]})


def test_scores_of_a_raw_reply(server: Server) -> None:
    server.script = [echoed(("one", None), (" two", -1.0), (" three", -2.0), (".", -0.25))]
    scores = model_of(server).logprobs([Prompt("one two", raw=True)], [" three."])
    assert scores == [[-2.0, -0.25]]
    assert server.seen[0][1]["prompt"] == "one two three."


def test_scores_of_a_chat_reply(server: Server) -> None:
    given = [None, *({"7": {"decoded_token": one, "logprob": -1.5}} for one in ("<", "The", " x"))]
    server.script = [answer({**chat_answer("a"), "prompt_logprobs": given})]
    prompts = [Prompt("hello"), Prompt("nothing")]
    assert model_of(server).logprobs(prompts, ["The x", ""]) == [[-1.5, -1.5], []]
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "behavior",
    [
        echo,
        echoed(("one", None), (" twothree", -1.0)),
        echoed(("one", None)),
        echoed(("one two", None), ("three", None)),
        answer({"choices": [{"text": "", "logprobs": {"tokens": ["a"], "token_logprobs": []}}]}),
    ],
)
def test_a_server_that_does_not_score_raw_replies(server: Server, behavior: Behavior) -> None:
    server.script = [behavior]
    with pytest.raises(EndpointError) as caught:
        model_of(server).logprobs([Prompt("one two", raw=True)], ["three"])
    assert "one two" not in f"{caught.value} {caught.value.hint}"


def test_a_server_that_does_not_score_chat_replies(server: Server) -> None:
    with pytest.raises(EndpointError, match="does not score a given reply in a chat"):
        model_of(server).logprobs([Prompt("hello")], ["there"])


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://host/api/v1/chat/completions", "https://host/api/v1"),
        ("https://host/v1/completions", "https://host/v1"),
        ("https://host/v1?version=2", "https://host/v1?version=2"),
    ],
)
def test_the_address_may_be_given_in_any_form(given: str, root: str) -> None:
    assert str(root_url(given)) == root


@pytest.mark.parametrize(
    "given",
    ["", "localhost:8000", "ftp://host/v1", "http://", "http://user:word@host/v1", "http://h:x/"],
)
def test_an_address_that_cannot_be_meant(given: str) -> None:
    with pytest.raises(UsageError) as caught:
        EndpointModel(given, "a-model")
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        EndpointModel("http://localhost", "a-model", api_key=key)
    assert not key or key not in str(caught.value)


def test_settings_out_of_range() -> None:
    with pytest.raises(UsageError, match="concurrency"):
        EndpointModel("http://localhost", "a-model", concurrency=0)
    with pytest.raises(UsageError, match="model id"):
        EndpointModel("http://localhost", "")
    with pytest.raises(UsageError, match="attempt"):
        Patience(attempts=0)
    with pytest.raises(UsageError, match="top"):
        EndpointModel("http://localhost", "a-model").next_token([Prompt("a")], 0)


def test_repr_hides_the_key_and_the_query() -> None:
    shown = repr(EndpointModel(f"http://localhost/v1?key={SECRET_KEY}", "m", api_key=SECRET_KEY))
    assert SECRET_KEY not in shown
    assert "localhost" in shown
