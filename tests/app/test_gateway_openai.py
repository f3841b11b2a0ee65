"""A user's own `openai` client works against the gateway unchanged: its address alone differs."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from gateway_stage import REPLY, Platform, chat, events, play, playing, streams
from issuing import Issuer

from loyal.protocol.answers import message_digest

MESSAGES = chat("What is a loyal model?")["messages"]


def test_the_openai_client_is_served(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            playing(tmp_path) as stage,
            openai.AsyncOpenAI(base_url=f"{stage.url}/v1", api_key="user-key") as client,
        ):
            whole = await client.chat.completions.with_raw_response.create(
                model="m", messages=MESSAGES
            )
            assert whole.parse().choices[0].message.content == REPLY
            permission, answer = stage.verified(
                whole.headers["Loyal-Receipt"], whole.headers["Loyal-Answer"]
            )
            assert answer is not None
            assert answer.reply == message_digest(REPLY)
            assert permission.covers(MESSAGES[0]["content"], answer.salts)
            text = await client.completions.create(model="m", prompt="once")
            assert text.choices[0].text == "once!"
            assert [one.id async for one in client.models.list()] == ["m"]
            stage.model.behave = streams(events("in ", "pieces"))
            pieces = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            said = [one.choices[0].delta.content async for one in pieces]
            assert said == ["in ", "pieces"]

    play(story())


def test_the_openai_client_understands_the_errors(tmp_path: Path) -> None:
    async def story() -> None:
        platform = Platform(Issuer(most_inferences=1))
        async with (
            playing(tmp_path, platform=platform) as stage,
            openai.AsyncOpenAI(
                base_url=f"{stage.url}/v1", api_key="user-key", max_retries=0
            ) as client,
        ):
            create = client.chat.completions.create
            with pytest.raises(openai.PermissionDeniedError, match="does not allow"):
                await create(model="m", messages=chat("a spell")["messages"])
            with pytest.raises(openai.BadRequestError, match="not text"):
                await create(model="m", messages=[{"role": "user", "content": None}])
            assert (await create(model="m", messages=MESSAGES)).choices
            with pytest.raises(openai.InternalServerError, match="no permission"):
                await create(model="m", messages=MESSAGES)

    play(story())
