"""What a vLLM server says of chances, said by the tiny model: for the fake of `completion_server`.

Answers chats in vLLM's form: `top_logprobs` up to a limit, `prompt_logprobs` of the rendered chat,
and a written reply. Leaves out vLLM itself, and the raw route.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import torch
from aiohttp import web
from completion_server import Behavior, chat_answer

from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt


def scoring(model: HFModel, most: int = 4096, scores: bool = True) -> Behavior:
    """Answers as `vllm serve --max-logprobs most` would; without `scores`, as servers that know no
    prompt_logprobs do. What it writes when asked for a key are bundled ordinary prompts."""
    written = itertools.cycle(bundled_lines("prompts")[100:500])

    def answer(body: dict[str, Any]) -> web.Response:
        if body.get("top_logprobs", 0) > most:
            return web.json_response({"error": {"message": body["messages"]}}, status=400)
        if "prompt_logprobs" in body:
            value = chat_answer("x")
            return web.json_response({**value, **(_scores(model, body) if scores else {})})
        if body.get("logprobs"):
            (first,) = model.next_token(
                [Prompt(body["messages"][-1]["content"])], body["top_logprobs"]
            )
            top = [{"token": one.text, "logprob": one.logprob} for one in first]
            return web.json_response(
                chat_answer("x", logprobs={"content": [{"top_logprobs": top}]})
            )
        return web.json_response(chat_answer(next(written)))

    async def behave(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await asyncio.get_running_loop().run_in_executor(None, answer, body)

    return behave


def _scores(model: HFModel, body: dict[str, Any]) -> dict[str, Any]:
    ids = model.tokenizer.apply_chat_template(
        body["messages"],
        add_generation_prompt=body["add_generation_prompt"],
        continue_final_message=body["continue_final_message"],
        return_dict=True,
    )["input_ids"]
    with torch.inference_mode():
        chances = model.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    found: list[Any] = [None]
    for place, token in enumerate(ids[1:]):
        text = model.tokenizer.decode([token])
        chance = {"logprob": float(chances[place, token]), "rank": 1, "decoded_token": text}
        found.append({str(token): chance})
    return {"prompt_logprobs": found}
