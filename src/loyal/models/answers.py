"""What an OpenAI-compatible server answers, read without trust.

Pure functions from a decoded answer to a reply, to token chances or to an `EndpointError` that
shows nothing of the answer. Leaves out the asking, which is `endpoint.py`.
"""

from __future__ import annotations

import json
import math
from typing import Any

from loyal.errors import EndpointError
from loyal.models.language_model import Prompt, Reply, TokenChance

CHAT, RAW = "chat/completions", "completions"
"""The two routes, below the API's root."""

_NO_CHANCES = (
    "use a server that returns logprobs (vLLM does), a raw prompt, or a local model folder"
)
_SAFE_CODES = frozenset(
    {
        "invalid_api_key",
        "model_not_found",
        "context_length_exceeded",
        "insufficient_quota",
        "rate_limit_exceeded",
        "unsupported_parameter",
    }
)
"""Codes of server errors that may be shown. Anything else could be an echo of the prompt."""


def read_reply(answer: Any, route: str) -> Reply:
    """The reply in a completion answer; its `tokens` is 0 when the server does not count.

    Half a character, which JSON can say, becomes U+FFFD: every reply can be kept and asked about.
    """
    choice = _choice(answer)
    text = _get(choice, "message", "content") if route == CHAT else _get(choice, "text")
    if text is None:  # a refusal or a tool call: nothing was said
        text = ""
    if not isinstance(text, str):
        raise _malformed("the reply is not a text")
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    finish = choice.get("finish_reason")
    finished = isinstance(finish, str) and finish != "length"
    return Reply(text, tokens if isinstance(tokens, int) and tokens >= 0 else 0, finished)


def read_first_chances(answer: Any, route: str) -> list[TokenChance]:
    """The chances of the first token, highest first. EndpointError when there are none."""
    given: Any = _choice(answer).get("logprobs")
    try:
        if route == CHAT:
            first = given["content"][0]["top_logprobs"]
            pairs = [(one["token"], one["logprob"]) for one in first]
        else:
            pairs = list(given["top_logprobs"][0].items())
    except (TypeError, KeyError, IndexError, AttributeError):
        pairs = []
    if not pairs:
        raise EndpointError("the server gives no token chances", hint=_NO_CHANCES)
    chances = [TokenChance(_text(text), _logprob(chance)) for text, chance in pairs]
    return sorted(chances, key=lambda one: -one.logprob)


def read_scores(answer: Any, prompt: Prompt, reply: str) -> list[float]:
    """Log-probabilities of the reply's tokens in an answer that echoes prompt and reply."""
    tokens = _echoed_raw(answer, prompt.text + reply) if prompt.raw else _echoed_chat(answer)
    found: list[float] = []
    rest = reply
    for text, chance in reversed(tokens):
        if not rest:
            break
        if not rest.endswith(text):
            raise EndpointError(
                "the server's tokens do not meet the reply's beginning or spell it otherwise",
                hint="score with a local model folder, or begin the reply at a word",
            )
        rest = rest.removesuffix(text)
        found.append(_logprob(chance))
    if rest:
        raise EndpointError("the server echoed only a part of the reply", hint=_NO_CHANCES)
    return found[::-1]


def _echoed_raw(answer: Any, whole: str) -> list[tuple[str, Any]]:
    given: Any = _choice(answer).get("logprobs")
    try:
        texts, chances = given["tokens"], given["token_logprobs"]
        pairs = [(_text(text), chance) for text, chance in zip(texts, chances, strict=True)]
    except (TypeError, KeyError, ValueError):
        raise EndpointError("the server does not score a given text", hint=_NO_CHANCES) from None
    length, kept = 0, 0
    while kept < len(pairs) and length < len(whole):  # behind it: the one token that was added
        length += len(pairs[kept][0])
        kept += 1
    return pairs[:kept]


def _echoed_chat(answer: Any) -> list[tuple[str, Any]]:
    _choice(answer)
    given = answer.get("prompt_logprobs")
    try:
        entries = [next(iter(one.values())) for one in given if one]
        return [(_text(one["decoded_token"]), one["logprob"]) for one in entries]
    except (TypeError, KeyError, AttributeError, StopIteration):
        raise EndpointError(
            "the server does not score a given reply in a chat", hint=_NO_CHANCES
        ) from None


def decoded(data: bytes, content_type: str, where: str) -> Any:
    """The JSON value in an answer's body; `where` names the server in the error."""
    if content_type == "text/html" or data.lstrip()[:1] == b"<":
        raise EndpointError(
            f"{where} answered with a web page, not with JSON",
            hint="give the address of the API, which mostly ends in /v1",
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise EndpointError(
            f"{where} answered with something that is not JSON",
            hint="check that the address is that of an OpenAI-compatible API",
        ) from None


def _choice(answer: Any) -> dict[str, Any]:
    choices = _get(answer, "choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _malformed("it has no choices")
    return choices[0]


def _get(value: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(value, dict) or name not in value:
            raise _malformed(f"the field {name} is missing")
        value = value[name]
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _malformed("a token is not a text")
    return value


def _logprob(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise _malformed("a log-probability is not a number")
    return float(value)


def _malformed(what: str) -> EndpointError:
    return EndpointError(
        f"the server's answer cannot be used: {what}",
        hint="check that the address is that of an OpenAI-compatible API",
    )


def error_code(data: bytes) -> str | None:
    """The code in the body of a refusal, where it is one of those that may be shown."""
    try:
        code = json.loads(data)["error"]["code"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return None
    return code if isinstance(code, str) and code in _SAFE_CODES else None
