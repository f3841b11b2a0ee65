"""A language model of this process as an OpenAI-compatible ASGI app: models, chat, completions.

Small on purpose: one query after another, greedy or sampled, no streams. For the demo; a real load
wants a real model server. Left out: permissions (`gateway`).
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from loyal.app.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    read_body,
    send_json,
    send_refusal,
    to_json,
)
from loyal.app.openai_form import CHAT, RAW, Refused
from loyal.errors import LoyalError
from loyal.models import LanguageModel, Prompt, Sampling

MOST_BYTES = 1 << 20
MOST_TOKENS = 4_096
TOKENS = 64
"""Of a reply, where the caller does not say."""


class ModelServer:
    """The app. Its one thread runs the model; `close` ends it."""

    def __init__(self, model: LanguageModel, most_tokens: int = MOST_TOKENS) -> None:
        """`most_tokens` bounds every reply, whatever is asked for."""
        self._model, self._most = model, most_tokens
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loyal-model")

    def __repr__(self) -> str:
        return f"ModelServer({self._model.name})"

    def close(self) -> None:
        """Let the query underway end, and take no more."""
        self._thread.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            status, body = 200, await self._answer(scope, receive)
        except ClientGone:
            return
        except Refused as refused:
            await send_refusal(send, refused, [])
            return
        await send_json(send, status, to_json(body), [])

    async def _answer(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/v1/models"):
            one = {"id": self._model.name, "object": "model", "owned_by": "loyal"}
            return {"object": "list", "data": [one]}
        if method != "POST" or path not in (CHAT, RAW):
            raise Refused(404, "not_found", "there is no such route")
        prompt, sampling = _question(path, await read_body(receive, MOST_BYTES), self._most)
        loop = asyncio.get_running_loop()
        try:
            said = await loop.run_in_executor(
                self._thread, lambda: self._model.generate([prompt], sampling)[0]
            )
        except LoyalError as error:
            raise Refused(400, "not_answered", str(error)) from None
        ending = "stop" if said.finished else "length"
        if path == CHAT:
            message = {"role": "assistant", "content": said.text}
            choice = {"index": 0, "message": message, "finish_reason": ending}
            kind = "chat.completion"
        else:
            choice = {"index": 0, "text": said.text, "finish_reason": ending}
            kind = "text_completion"
        return {
            "id": f"loyal-{time.time_ns():x}", "object": kind, "created": int(time.time()),
            "model": self._model.name, "choices": [choice],
            "usage": {"completion_tokens": said.tokens},
        }  # fmt: skip


def _question(path: str, data: bytes, most: int) -> tuple[Prompt, Sampling]:
    """What is asked, and how. Refused (400) for what this server cannot do."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "not_json", "the body is no JSON object")
    if body.get("stream"):
        raise Refused(400, "no_streams", "this small server does not stream: leave stream out")
    prompt = _chat(body) if path == CHAT else _raw(body)
    tokens = body.get("max_tokens") or body.get("max_completion_tokens") or TOKENS
    temperature, top_p = body.get("temperature", 0.0), body.get("top_p", 1.0)
    sound = type(tokens) is int and all(
        isinstance(one, int | float) for one in (temperature, top_p)
    )
    if not sound:
        raise Refused(400, "malformed", "max_tokens, temperature and top_p are numbers")
    try:
        return prompt, Sampling(min(tokens, most), float(temperature), float(top_p))
    except LoyalError as error:
        raise Refused(400, "malformed", str(error)) from None


def _chat(body: dict[str, Any]) -> Prompt:
    given = body.get("messages")
    turns = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    texts = [one["content"] for one in turns if isinstance(one.get("content"), str)]
    if not texts or not isinstance(given, list) or len(texts) != len(given):
        raise Refused(400, "malformed", "messages hold turns in plain text")
    roles = [one.get("role") for one in turns]
    system = texts.pop(0) if roles[0] == "system" else None
    wanted = ["user", "assistant"] * len(texts)
    if len(texts) % 2 == 0 or roles[len(roles) - len(texts) :] != wanted[: len(texts)]:
        raise Refused(400, "turns", "user and assistant take turns, and the user speaks last")
    return Prompt(texts[-1], system, history=tuple(zip(texts[:-1:2], texts[1::2], strict=True)))


def _raw(body: dict[str, Any]) -> Prompt:
    if not isinstance(body.get("prompt"), str):
        raise Refused(400, "malformed", "prompt is a text")
    return Prompt(body["prompt"], raw=True)
