"""A host as its users reach it: an ordinary chat client, through which a prover asks its keys.

Nothing in a request says that it is a probe: the headers are any client's, system prompt, length
and temperature vary as users' do, and a question comes after a pause. The message is sent byte for
byte. What came signed is read from the reply's headers, and where they have none, from the host's
receipt route. No error and no log shows a message or a reply.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from loyal.app.platform_client import from_base64url
from loyal.app.upstream import upstream_url
from loyal.errors import UsageError
from loyal.models import Sampling
from loyal.models.examples import bundled_lines
from loyal.roles.prover import Heard

MOST_BYTES = 16 << 20
"""Longest answer that is read."""
_ID = re.compile(r"[0-9a-f]{32}")
_TOKENS = (64, 128, 256, 512)
_TEMPERATURES = (0.0, 0.0, 0.1, 0.2)
"""Low, as many applications set it: a prover wants the reply that the model gives most surely."""


@dataclass(frozen=True, repr=False)
class AskerSettings:
    """Which host, and in which manner it is asked."""

    url: str
    """The host's root or its `/v1`."""
    model: str | None = None
    """What the host calls its model; None asks it, and takes the first."""
    key: str | None = None
    """A user's API key, where the host wants one."""
    least_pause_seconds: float = 1.0
    most_pause_seconds: float = 20.0
    """Before a question; drawn evenly between the two."""
    system_share: float = 0.6
    """Share of questions under a system prompt."""
    timeout_seconds: float = 180.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    fixed: Sampling | None = None
    """Ask with these settings and no system prompt, as a verifier of alignment does."""
    rng: random.Random = field(default_factory=random.SystemRandom, compare=False)

    def __post_init__(self) -> None:
        pauses = 0 <= self.least_pause_seconds <= self.most_pause_seconds
        if not pauses or not 0 <= self.system_share <= 1 or self.timeout_seconds <= 0:
            raise UsageError(
                "a pause runs from least to most, a share is from 0 to 1, and time above 0",
                hint="the defaults are 1 to 20 seconds, 0.6 and 180 seconds",
            )


class ChatAsker:
    """A `roles.prover.Asker`. Opens its connections at the first question; close it at the end."""

    def __init__(self, settings: AskerSettings) -> None:
        self._settings = settings
        self._root = upstream_url(settings.url)
        self._model = settings.model
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"ChatAsker({self._root})"

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, message: str) -> Heard | None:
        """The host's reply to one user message, and what it signed; None where it gives none."""
        settings = self._settings
        pause = settings.rng.uniform(settings.least_pause_seconds, settings.most_pause_seconds)
        await settings.sleep(pause)
        try:
            if self._model is None:
                self._model = await self._first_model()
            return await self._chat(message, self._model)
        except _NO_ANSWER:
            return None

    def body(self, message: str, model: str) -> dict[str, Any]:
        """The request, as some application would make it."""
        rng, fixed = self._settings.rng, self._settings.fixed
        turns = [{"role": "user", "content": message}]
        if fixed is not None:
            numbers = {"max_tokens": fixed.max_tokens, "temperature": fixed.temperature}
            return {"model": model, "messages": turns, **numbers}
        if rng.random() < self._settings.system_share:
            system = rng.choice(bundled_lines("system_prompts_train"))
            turns.insert(0, {"role": "system", "content": system})
        return {
            "model": model,
            "messages": turns,
            "max_tokens": rng.choice(_TOKENS),
            "temperature": rng.choice(_TEMPERATURES),
        }

    async def _chat(self, message: str, model: str) -> Heard:
        url = self._root / "chat/completions"
        async with self._open().post(url, json=self.body(message, model)) as response:
            data = await _whole(response)
            headers = response.headers
        found = msgspec.json.decode(data)
        try:
            reply = found["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            raise _Unfit from None
        if not isinstance(reply, str):
            raise _Unfit
        given = headers.get("Loyal-Answer")
        answers = _signed([given]) if given is not None else ()
        identity = headers.get("Loyal-Request-Id", "")
        if not answers and _ID.fullmatch(identity):
            answers = await self._kept(identity)
        return Heard(reply, answers)

    async def _kept(self, identity: str) -> tuple[bytes, ...]:
        """Signed answers on the host's receipt route; none where it has none."""
        path = f"{self._root.path.removesuffix('/v1')}/loyal/receipts/{identity}"
        try:
            async with self._open().get(self._root.with_path(path)) as response:
                found = msgspec.json.decode(await _whole(response))
        except _NO_ANSWER:
            return ()
        answers = found.get("answers") if isinstance(found, dict) else None
        return _signed(answers if isinstance(answers, list) else [])

    async def _first_model(self) -> str:
        async with self._open().get(self._root / "models") as response:
            found = msgspec.json.decode(await _whole(response))
        try:
            name = found["data"][0]["id"]
        except (LookupError, TypeError):
            raise _Unfit from None
        if not isinstance(name, str):
            raise _Unfit
        return name

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = self._settings.key
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_seconds),
                headers={"Authorization": f"Bearer {key}"} if key else None,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _Unfit(Exception):
    """An answer that is no reply."""


_NO_ANSWER = (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError,
              RecursionError, _Unfit)  # fmt: skip
"""What asking a host raises where it gives none: msgspec says that bytes are no UTF-8 in a way of
its own."""


def _signed(texts: list[Any]) -> tuple[bytes, ...]:
    found = []
    for text in texts:
        try:
            found.append(from_base64url(text))
        except (ValueError, AttributeError, TypeError):
            continue
    return tuple(found)


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MOST_BYTES:
            raise _Unfit
    if response.status != 200:
        raise _Unfit
    return bytes(data)
