"""The prover's chat client: bytes as they are, a manner that varies, and no reply from nonsense."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_stage import REPLY, play, playing, says
from talking_server import talking

from loyal.app.prover_client import AskerSettings, ChatAsker
from loyal.errors import UsageError
from loyal.protocol import SignedAnswer
from loyal.protocol.answers import message_digest
from loyal.roles.prover import Heard
from loyal.signing import PublicKey, Signed


def ask(url: str, message: str = "a question", model: str | None = "m") -> Heard | None:
    async def work() -> Heard | None:
        settings = AskerSettings(url, model, least_pause_seconds=0, most_pause_seconds=0)
        asker = ChatAsker(settings)
        try:
            return await asker.ask(message)
        finally:
            await asker.close()

    return asyncio.run(work())


def test_the_message_goes_as_it_is_and_the_reply_comes_as_it_is() -> None:
    message = ' "Zürich"\n\u2028 a\tb '
    with talking(lambda text: f"<{text}>") as host:
        heard = ask(host.url, message)
        assert host.asked == [message]
    assert heard is not None
    assert heard.reply == f"<{message}>"
    assert heard.answers == ()
    assert message not in repr(heard)


@pytest.mark.parametrize(
    "nonsense", [b"<html>", b'{"choices":[{"message":{"content":"\xff"}}]}', b"[" * 100_000]
)
def test_a_host_that_answers_with_nonsense_gave_no_reply(nonsense: bytes) -> None:
    with talking(lambda text: nonsense) as host:
        assert ask(host.url) is None
        assert ask(host.url, model=None) is None
        url = host.url
    assert ask(url) is None


def sample(change: Callable[[AskerSettings], AskerSettings] = lambda one: one) -> list[dict]:  # type: ignore[type-arg]
    settings = change(AskerSettings("http://127.0.0.1:9/v1", "m", rng=random.Random(7)))
    asker = ChatAsker(settings)
    return [asker.body("a question", "m") for _ in range(200)]


def test_system_prompt_length_and_temperature_vary() -> None:
    bodies = sample()
    systems = [one["messages"][0]["content"] for one in bodies if len(one["messages"]) == 2]
    assert 80 < len(systems) < 160
    assert len(set(systems)) > 20
    assert len({one["max_tokens"] for one in bodies}) > 2
    assert len({one["temperature"] for one in bodies}) > 2
    assert all(one["messages"][-1] == {"role": "user", "content": "a question"} for one in bodies)


def test_questions_come_after_a_pause() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def work() -> None:
        asker = ChatAsker(AskerSettings("http://127.0.0.1:9/v1", "m", sleep=sleep))
        for _ in range(20):
            assert await asker.ask("a question") is None
        await asker.close()

    asyncio.run(work())
    assert len({round(one, 6) for one in pauses}) == 20
    assert all(1 <= one <= 20 for one in pauses)


def test_a_manner_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError):
        AskerSettings("http://h", least_pause_seconds=5, most_pause_seconds=1)
    with pytest.raises(UsageError):
        AskerSettings("http://h", system_share=1.5)
    with pytest.raises(UsageError):
        ChatAsker(AskerSettings("ftp://h"))


@pytest.mark.parametrize("length", [1, 20_000])
def test_what_a_real_gateway_signed_is_found(tmp_path: Path, length: int) -> None:
    """Short conversations have their answer in a header, long ones on the receipt route."""

    async def story() -> None:
        async with playing(tmp_path) as stage:
            settings = AskerSettings(stage.url, "m", least_pause_seconds=0, most_pause_seconds=0)
            asker = ChatAsker(settings)
            message = "question " * length
            heard = await asker.ask(message)
            await asker.close()
            assert heard is not None
            assert heard.reply == REPLY
            issuing = stage.platform.issuer.stage
            answer = SignedAnswer(Signed.from_bytes(heard.answers[0])).verify(issuing.id("host"))
            assert answer.messages == (message_digest(message),)
            assert answer.reply == message_digest(heard.reply)
            assert answer.receipt is not None
            permission = answer.receipt.verify(PublicKey(issuing.id("platform")))
            assert permission.covers(message, answer.salts)

    play(story())


def test_a_host_whose_model_server_fails_gave_no_reply(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            settings = AskerSettings(stage.url, "m", least_pause_seconds=0, most_pause_seconds=0)
            asker = ChatAsker(settings)
            stage.model.behave = says(500, b"{}")
            assert await asker.ask("a question") is None
            stage.model.behave = says(200, b'{"choices": [{"message": {"content": null}}]}')
            assert await asker.ask("a question") is None
            await asker.close()

    play(story())
