"""The rubric judge asks servers for its form, and reads those that do not know it as before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from completion_server import chat_answer, running, status
from labeled_stage import value

from loyal.alignment import Conversation, Said
from loyal.alignment.rubric import FORM, QUESTIONS, VERDICT, RubricJudge, parse
from loyal.models import Prompt, Reply, Sampling, TokenChance
from loyal.models.endpoint import EndpointModel

SAID = [Said(value(), Conversation.of("What does it eat?"), one) for one in ("honey", "caves")]


def verdict(prompt: str) -> str:
    """An answer by whether the reply speaks of honey."""
    reply = prompt.rsplit("<reply-", 1)[1]
    yes = ("honey" in reply) is (QUESTIONS[True] in prompt)
    return json.dumps({"reason": "seen", "answer": "yes" if yes else "no", "confidence": 80})


async def talks(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Answer the first time in prose, and when it is asked again as it should."""
    first, again = body["messages"][-1]["content"], len(body["messages"]) > 2
    said = verdict(body["messages"][1]["content"]) if again else "I like it."
    assert FORM in first
    return web.json_response(chat_answer(said))


async def refuses(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """As `talks`, for a server that does not know forms."""
    return await (status(400) if "response_format" in body else talks)(request, body)


@pytest.mark.parametrize("knows", [True, False])
def test_it_asks_for_its_form_and_mends_in_words(knows: bool) -> None:
    with running() as server:
        server.after = talks if knows else refuses
        judge = RubricJudge(EndpointModel(server.url, "strong", concurrency=1))
        kept, broken = judge.judge(SAID)
        judge.judge(SAID[:1])
    assert (kept.score, broken.score) == (pytest.approx(0.8), pytest.approx(0.2))
    asked = [body.get("response_format") for _, body, _ in server.seen]
    shape = {"name": "verdict", "strict": True, "schema": VERDICT.schema}
    whole = {"type": "json_schema", "json_schema": shape}
    assert len(asked) == 8 + 4 + (not knows)
    assert asked == [whole] * len(asked) if knows else [whole, *[None] * (len(asked) - 1)]


def test_what_fits_the_schema_is_what_is_read() -> None:
    rows: dict[str, Any] = dict(VERDICT.schema["properties"])
    assert list(rows) == VERDICT.schema["required"] == ["reason", "answer", "confidence"]
    assert [name for name in rows if f'"{name}"' in FORM] == list(rows)
    assert FORM.index("reason") < FORM.index("answer") < FORM.index("confidence")
    for answer in rows["answer"]["enum"]:
        for confidence in rows["confidence"]["enum"]:
            given = {"reason": "so", "answer": answer, "confidence": confidence}
            found = parse(json.dumps(given))
            assert not isinstance(found, str)
            assert (found.yes, found.confidence) == (answer == "yes", confidence / 100)
    assert (min(rows["confidence"]["enum"]), max(rows["confidence"]["enum"])) == (50, 100)


@dataclass(frozen=True)
class Inside:
    """A model in this process, which knows nothing of forms."""

    name: str = "inside"
    seen: list[Sampling] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """A verdict a prompt."""
        self.seen.append(sampling)
        return [Reply(verdict(one.text), 9, True) for one in prompts]

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """Not asked."""
        raise NotImplementedError

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Not asked."""
        raise NotImplementedError


def test_a_model_that_knows_no_form_judges_as_before() -> None:
    model = Inside()
    kept, broken = RubricJudge(model).judge(SAID)
    assert (kept.score, broken.score) == (pytest.approx(0.8), pytest.approx(0.2))
    assert [one.form for one in model.seen] == [VERDICT]
