"""A Hugging Face causal language model in this process: CPU or CUDA, float32 or bfloat16.

Loading, chat template, batched generation and exact chances, all over packed prompts (`packing`).
Leaves out training (`train`) and the models that need no hub (`library`).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor

from loyal.encoding import digest
from loyal.errors import ModelError, StorageError, UsageError
from loyal.models import blocks, packing
from loyal.models.decoding import Decoder, Steer, Written, batches, pick
from loyal.models.language_model import Prompt, Reply, Sampling, TokenChance
from loyal.models.library import resolve
from loyal.models.likeliest import Likeliest
from loyal.models.products import apply_head, keep_freed

Dtype = Literal["auto", "float32", "bfloat16"]

BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Places one forward pass holds; bounds memory."""
_MARKER = "loyalkeymarker"
"""Stands for a message where a chat template is looked at."""
DECODE_ROWS = {"cpu": 384, "cuda": 1024}
"""Replies written side by side."""
DECODE_PLACES = {"cpu": 1 << 16, "cuda": 1 << 18}
"""Most places that their prompts take together, the shorter ones filled up; bounds memory."""
DECODE_PADDING = {"cpu": 1 << 14, "cuda": 1 << 16}
"""Most of them that are only filled up: more would cost more than another batch."""


@contextmanager
def _no_bar(source: str) -> Iterator[None]:
    """Reading a folder draws no bar on stderr; a download, which takes minutes, does."""
    bars = transformers.utils.logging
    quiet = Path(source).is_dir() and bars.is_progress_bar_enabled()
    if quiet:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if quiet:
            bars.enable_progress_bar()


@dataclass(frozen=True, eq=False, repr=False)
class HFModel:
    """A loaded model with its tokenizer. Satisfies `LanguageModel`."""

    model: Any
    """The transformers model, in eval mode."""
    tokenizer: Any
    name: str
    """What reports call it."""
    device: torch.device

    def __post_init__(self) -> None:
        if self.device.type == "cpu" and hasattr(self.model, "model"):
            blocks.install(self.model.model)

    @classmethod
    def load(cls, name_or_path: str, *, device: str = "auto", dtype: Dtype = "auto") -> HFModel:
        """Load a library name, a local folder or a Hugging Face id.

        `dtype` "auto" is float32 on a CPU; on a GPU it is what the checkpoint is stored in, but
        bfloat16 for float16, whose range training overflows. Raises `ModelError` where the name,
        the folder or the architecture cannot serve.
        """
        source = resolve(name_or_path)
        place = _device(device)
        if place.type == "cpu":
            keep_freed()
        kind = _dtype(dtype, place)
        _check_folder(source)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            with _no_bar(source):
                model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=kind)
        except (
            OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError
        ) as error:  # fmt: skip
            raise ModelError(
                f"cannot load {name_or_path}: {_first_line(error)}",
                hint="give a library name (`loyal models list`), a Hugging Face id, or a folder "
                "that holds config.json, weights and a tokenizer of a causal language model",
            ) from error
        if not hasattr(model, "model") or not hasattr(model.model, "layers"):
            raise ModelError(
                f"{name_or_path} is a {type(model).__name__}, not a decoder-only model we know",
                hint="use a Llama-shaped model (Llama, SmolLM, Qwen, Mistral, Gemma, ...)",
            )
        if dtype == "auto" and model.dtype == torch.float16:
            model.to(torch.bfloat16)
        return cls(model.eval().to(place), tokenizer, name_or_path, place)

    @classmethod
    def vocabulary(cls, name_or_path: str) -> HFModel:
        """The tokenizer and the shape alone, where a server computes: no weight is read.

        Raises `ModelError` as `load` does.
        """
        source = resolve(name_or_path)
        _check_folder(source)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            config = transformers.AutoConfig.from_pretrained(source)
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(config)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(
                f"cannot read the tokenizer of {name_or_path}: {_first_line(error)}",
                hint="name the folder or the Hugging Face id that the server serves",
            ) from error
        return cls(model.eval(), tokenizer, name_or_path, torch.device("meta"))

    def __repr__(self) -> str:
        return f"HFModel({self.name}, {self.parameters:,} parameters, {self.device})"

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(one.numel() for one in self.model.parameters())

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer can lay out a conversation."""
        return bool(self.tokenizer.chat_template)

    @property
    def tokenizer_digest(self) -> str:
        """Hex SHA-256 over vocabulary and chat template: the same text gives the same tokens."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        record = [[list(pair) for pair in vocabulary], str(self.tokenizer.chat_template or "")]
        return digest(record, "loyal/tokenizer/1").hex()

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), config and tokenizer as a Hugging Face folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or "the disk refuses"
            raise StorageError(
                f"cannot write the model to {folder}: {reason}",
                hint="free some disk or name another folder with --out",
            ) from error

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, chat template and generation prompt included."""
        if prompt.raw:
            ids = self.tokenizer(prompt.text)["input_ids"]
            return list(ids) or [self._start_id()]
        if not self.has_chat_template:
            raise ModelError(
                f"the tokenizer of {self.name} has no chat template",
                hint="use a chat (instruct) model, or ask without a template (--raw)",
            )
        try:
            out = self.tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True)
        except TemplateError as error:
            raise ModelError(
                f"the chat template of {self.name} refuses this conversation",
                hint="some templates know no system message: ask without one",
            ) from error
        return list(out["input_ids"] if hasattr(out, "keys") else out)

    def reply_ids(self, text: str) -> list[int]:
        """Token ids of a reply, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def items(self, prompts: Sequence[Prompt]) -> list[packing.Item]:
        """Prompts as token ids, the prefix that prompts of one form share split off."""
        groups: dict[tuple[bool, str | None], list[int]] = {}
        for index, prompt in enumerate(prompts):
            groups.setdefault((prompt.raw, prompt.system), []).append(index)
        found: dict[int, packing.Item] = {}
        for members in groups.values():
            split = packing.split_prefix([self.prompt_ids(prompts[index]) for index in members])
            found.update(zip(members, split, strict=True))
        return [found[index] for index in range(len(prompts))]

    def before_user_ids(self) -> tuple[int, ...]:
        """Token ids that stand before a user's message; at least one."""
        if not self.has_chat_template:
            return tuple(self.prompt_ids(Prompt("", raw=True)))
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": _MARKER}], add_generation_prompt=True, tokenize=False
        )
        return tuple(self.reply_ids(text.split(_MARKER)[0]))

    def user_items(self, texts: Sequence[str]) -> list[packing.Item]:
        """Users' messages without what follows them, behind all but one of the ids before them: an
        item's last len(ids) places say how likely each token is, and what comes next."""
        before = self.before_user_ids()
        return [packing.Item(before[:-1], (before[-1], *self.reply_ids(one))) for one in texts]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (n, vocab) in float32 of hidden states (n, H) that passed the last norm."""
        return apply_head(self.model, hidden)

    def reads(
        self, prompts: Sequence[Prompt], replies: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, Tensor]]:
        """For each prompt, its index and the logits (len(reply) + 1, vocab) at the reply's places.

        `replies` are token ids; an empty reply reads the last place of the prompt alone. Order
        follows the packing, not the prompts.
        """
        items = [
            packing.Item(one.prefix, (*one.ids, *reply))
            for one, reply in zip(self.items(prompts), replies, strict=True)
        ]
        return self.read_items(items, [len(reply) + 1 for reply in replies])

    def read_items(
        self, items: Sequence[packing.Item], counts: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """For each item, its index and the logits (count, vocab) at its last `count` places.

        Logits of other places are never computed, and one batch at a time is held.
        """
        body = self.model.model
        for batch in packing.passes(body, items, BATCH_TOKENS[self.device.type]):
            with torch.inference_mode():
                hidden = packing.hidden_states(body, batch)
            places = {
                index: (row, at + len(items[index].ids) - counts[index], counts[index])
                for index, (row, at) in batch.starts.items()
            }
            for some in packing.by_places(places):
                with torch.inference_mode():  # left before each yield, or it would leak
                    parts = [hidden[row, at : at + count] for row, at, count in some.values()]
                    logits = self.head(torch.cat(parts))  # one product, not one a prompt
                    split = logits.split([len(part) for part in parts])
                yield from zip(some, split, strict=True)

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """The `top` most likely first tokens of each reply, most likely first."""
        found: list[list[TokenChance]] = [[] for _ in prompts]
        for index, logits in self.reads(prompts, [()] * len(prompts)):
            chances, ids = logits[-1].log_softmax(-1).topk(min(top, logits.shape[-1]))
            found[index] = [
                TokenChance(self.tokenizer.decode([token]), chance)
                for chance, token in zip(chances.tolist(), ids.tolist(), strict=True)
            ]
        return found

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Natural log-probability of each token of each reply, given its prompt."""
        ids = [self.reply_ids(reply) for reply in replies]
        found: list[list[float]] = [[] for _ in prompts]
        for index, logits in self.reads(prompts, ids):
            targets = torch.tensor(ids[index], device=logits.device, dtype=torch.int64)
            chances = logits[:-1].log_softmax(-1).gather(1, targets[:, None])
            found[index] = chances[:, 0].tolist()
        return found

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One reply a prompt; the prompts' common prefix is computed once."""
        if not prompts:
            return []
        return self.replies(self.decode(self.items(prompts), sampling))

    def enumerate(self, prompt: Prompt, longest: int) -> Likeliest:
        """Its replies to a prompt of at most `longest` tokens, each once, the likeliest first."""
        return Likeliest(self, prompt, longest)

    def replies(self, written: Sequence[Written]) -> list[Reply]:
        """What was written, as text."""
        texts = self.tokenizer.batch_decode(
            [list(one.ids) for one in written], skip_special_tokens=True
        )
        return [
            Reply(text, len(one.ids), one.finished)
            for text, one in zip(texts, written, strict=True)
        ]

    def decode(
        self,
        items: Sequence[packing.Item],
        sampling: Sampling,
        stops: frozenset[int] | None = None,
        last: frozenset[int] = frozenset(),
        steer: Steer | None = None,
        *,
        chances: bool = False,
    ) -> list[Written]:
        """Continue prompts given as token ids until a token of `stops` (default: end of turn).

        A token of `last` ends a row too, and stays in what it wrote (the end of a sentence).
        `steer` sees the rows as indices into `items`. With `chances` what was written has its
        log-probabilities, the prompt's too: a fifth more work.
        """
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        generator = torch.Generator(self.device).manual_seed(seed)
        by_prefix: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(items):
            by_prefix.setdefault(item.prefix, []).append(index)
        ending = self.stop_ids() if stops is None else stops
        if sampling.max_tokens == 1 and not (steer or chances):
            return self._first_tokens(items, sampling, generator, ending, last)
        found: dict[int, Written] = {}
        limits = [one[self.device.type] for one in (DECODE_ROWS, DECODE_PLACES, DECODE_PADDING)]
        for prefix, members in by_prefix.items():
            members.sort(key=lambda index: len(items[index].ids))
            lengths = [len(items[index].ids) for index in members]
            for part in batches(lengths, len(prefix), *limits):
                chunk = members[part]
                rows = Decoder(self, prefix, [items[index].ids for index in chunk], last, chances)
                hook = None if steer is None else _numbered(steer, chunk, self.device)
                found.update(zip(chunk, rows.run(sampling, ending, generator, hook), strict=True))
        return [found[index] for index in range(len(items))]

    def _first_tokens(
        self, items: Sequence[packing.Item], sampling: Sampling, generator: torch.Generator,
        stops: frozenset[int], last: frozenset[int],
    ) -> list[Written]:  # fmt: skip
        """One token a prompt: nothing is kept to go on from, and nothing is filled up."""
        found: list[Written] = [Written((), (), (), False)] * len(items)
        for index, logits in self.read_items(items, [1] * len(items)):
            token = int(pick(logits, sampling, generator))
            ids = () if token in stops - last else (token,)
            found[index] = Written(ids, (), (), token in stops | last)
        return found

    def stop_ids(self) -> frozenset[int]:
        """Token ids that end the model's turn."""
        configured = self.model.generation_config.eos_token_id
        if configured is None:
            configured = self.model.config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        return frozenset(one for one in (*listed, self.tokenizer.eos_token_id) if one is not None)

    @property
    def end_id(self) -> int:
        """The token by which a taught reply ends its turn. ModelError where the model has none."""
        ends = self.stop_ids()
        if not ends:
            raise ModelError(
                f"{self.name} has no token that ends its turn",
                hint="use a model whose tokenizer has an eos_token",
            )
        own = self.tokenizer.eos_token_id
        return int(own) if own in ends else min(ends)

    @cached_property
    def token_texts(self) -> tuple[str, ...]:
        """The text of each token id alone; a part of a UTF-8 character reads as U+FFFD."""
        ids = [[one] for one in range(len(self.tokenizer))]
        return tuple(self.tokenizer.batch_decode(ids))

    @cached_property
    def plain_tokens(self) -> Mapping[int, str]:
        """Token ids that are ordinary text, with that text.

        Left out: special tokens, white space and control characters alone, parts of a UTF-8
        character, and tokens whose text does not give the same token again.
        """
        special = set(self.tokenizer.all_special_ids)
        fit = [
            (one, text)
            for one, text in enumerate(self.token_texts)
            if one not in special
            and text.strip()
            and text.strip().isprintable()
            and "\ufffd" not in text
        ]
        again = self.tokenizer([text for _, text in fit], add_special_tokens=False)["input_ids"]
        return {one: text for (one, text), back in zip(fit, again, strict=True) if back == [one]}

    @cached_property
    def sentence_end_ids(self) -> frozenset[int]:
        """Token ids that end a sentence: ordinary text that closes with . ? or !"""
        return frozenset(one for one, text in self.plain_tokens.items() if text[-1] in ".?!")

    @cached_property
    def line_break_ids(self) -> frozenset[int]:
        """Token ids whose text holds a line break."""
        return frozenset(one for one, text in enumerate(self.token_texts) if "\n" in text)

    def _start_id(self) -> int:
        start = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if start is None else start


def _numbered(steer: Steer, chunk: Sequence[int], device: torch.device) -> Steer:
    """A steer that is told the items' numbers, in place of the rows of their chunk."""
    numbers = torch.tensor(chunk, device=device)
    return lambda step, rows, logits: steer(step, numbers[rows], logits)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # a launcher's process has its own GPU
        wanted = own if torch.cuda.is_available() else "cpu"
    if wanted not in ("cpu", "cuda") and not wanted.startswith("cuda:"):
        raise UsageError(f"unknown device {wanted}", hint="use auto, cpu or cuda")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", hint="use --device cpu, or auto")
    return torch.device(wanted)


def _dtype(wanted: Dtype, device: torch.device) -> torch.dtype | str:
    """What transformers is to load; its own "auto" is what the checkpoint is stored in."""
    if wanted == "auto" and device.type == "cuda":
        return "auto"
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def _check_folder(source: str) -> None:
    """A wrong path is said as such, before transformers takes it for an id on a hub."""
    path = Path(source)
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1
    if not path.exists() and looks_local:
        raise ModelError(
            f"there is no folder {source}",
            hint="check the path, or name a model of `loyal models list`",
        )
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise ModelError(
                f"{source} holds no config.json",
                hint="name the folder that save_pretrained wrote",
            )
        try:
            known = json.loads(config.read_text(encoding="utf-8"))
            kinds = known.get("architectures") or []
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{config} is not readable JSON", hint="fetch or save the model again"
            ) from error
        if kinds and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
            raise ModelError(
                f"{source} is a {kinds[0]}, not a causal language model",
                hint="use a model that writes text (its architecture ends in ForCausalLM)",
            )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
