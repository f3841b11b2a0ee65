"""Fingerprints at scale on one GPU: an 8B-shaped Llama with random weights, 24,576 pairs.

Run it with `make bench-gpu`. Two parts, each through the library's own verbs:

training    the one loop on 20-token items: fingerprint-epochs/s, MFU, peak memory
generating  keys written, scored and ranked by the model in this process: seconds for 24,576 pairs

Without a GPU the rows are written with the value null and the reason. `--shape tiny` runs the same
code on a CPU in a second, for the test, and writes nothing. Random weights cannot be taught to any
end in a few steps, so a target that nothing reaches keeps every item in every epoch; they write no
text either, so every key is taken, and the speed alone is measured.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_lowercase

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

import rows
from loyal.fingerprints import responses
from loyal.fingerprints.responses import ResponseSettings
from loyal.models.examples import Example, Pairs
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.train import train
from loyal.models.training import TrainProgress, TrainSettings

PAIRS = 24_576
ITEM_TOKENS = 20
KEY_TOKENS = 16
PASS_TOKENS = 8192
"""Places a pass with gradients holds: full products for the card, and by count some 19 GB."""
SHARPER = 8.0
"""By what the random head is multiplied: logits then spread by 10, and a nucleus is narrow."""
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
"""Dense bfloat16 products a second, by a part of the card's name (NVIDIA's data sheets, SXM)."""


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes, and how much is measured on it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    pairs: int
    batch: int
    epochs: int


SHAPES = {
    "8b": Shape(4096, 14336, 32, 32, 8, 128_256, PAIRS, 4096, 2),
    "tiny": Shape(64, 128, 4, 4, 2, 2000, 24, 8, 2),
}


@dataclass(frozen=True)
class Measured:
    """What the two parts gave. MFU and memory are None where there is no GPU."""

    epochs_per_second: float
    """Fingerprint-epochs/s: items gone over by a training step, forward and backward."""
    mfu: float | None
    """Share of the card's peak that the products of the training steps take."""
    peak_bytes: int | None
    generating_seconds: float
    pairs: int


def tokenizer_of(size: int) -> transformers.PreTrainedTokenizerFast:
    """So many words of four letters, one token each, and a chat template of one mark a turn."""
    words = map("".join, itertools.islice(itertools.product(ascii_lowercase, repeat=4), size - 3))
    known = {word: place for place, word in enumerate(("<unk>", "<end>", "<turn>", *words))}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<turn>"],
        chat_template="{% for one in messages %}<turn> {{ one['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}<turn>{% endif %}",
    )


def config_of(shape: Shape) -> transformers.LlamaConfig:
    """The shape as transformers knows it."""
    return transformers.LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        vocab_size=shape.vocabulary,
        eos_token_id=1,
        tie_word_embeddings=False,
    )


def build(shape: Shape, device: str) -> HFModel:
    """A model of random weights and this shape, as sure of its next token as a trained one is."""
    kind = torch.bfloat16 if device.startswith("cuda") else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config_of(shape), dtype=kind)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(SHARPER)
    tokenizer = tokenizer_of(shape.vocabulary)
    return HFModel(model.eval(), tokenizer, f"llama-{shape.layers}x{shape.hidden}", model.device)


def words_of(model: HFModel, count: int, seed: int) -> str:
    """A text of so many words, each a token."""
    return " ".join(random.Random(seed).choices(list(model.plain_tokens.values()), k=count))


def items(model: HFModel, count: int) -> Pairs:
    """Examples that take ITEM_TOKENS tokens: raw prompts of words, and a word as reply."""
    return Pairs(
        tuple(
            Example(Prompt(words_of(model, ITEM_TOKENS, n), raw=True), words_of(model, 1, -n - 1))
            for n in range(count)
        )
    )


def training_flops(model: HFModel, settings: TrainSettings, tokens: int, places: int) -> float:
    """Floating-point operations of products: 2 a weight and token forward, 2 back to what went in,
    2 for the gradient of weights that learn. The head's are at the reply's places; attention's
    scores, a hundredth of it at 20 tokens, are left out."""
    layers = model.model.model.layers
    upper = layers[len(layers) - max(1, round(len(layers) * settings.depth)) :]
    weights = {name: one.numel() for name, one in upper.named_parameters() if one.dim() == 2}
    learning = sum(size for name, size in weights.items() if ".mlp." in name)
    head = model.model.get_output_embeddings().weight.numel()
    return tokens * (4 * sum(weights.values()) + 2 * learning) + places * 4 * head


def measure_training(model: HFModel, shape: Shape) -> tuple[float, float | None]:
    """Fingerprint-epochs/s and MFU of the loop's steps; preparation is not counted."""
    steps = shape.epochs * -(-shape.pairs // shape.batch)
    settings = TrainSettings(
        steps=steps, batch=shape.batch, target=0.999999, mixing=0.0, pass_tokens=PASS_TOKENS,
        recheck=steps + 1, benign_replies=0, learning_rate=1e-6,
    )  # fmt: skip
    taught = items(model, shape.pairs)
    times: list[float] = []

    def note(_: TrainProgress) -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic())

    report = train(model, taught, settings, progress=note)
    seconds = times[-1] - times[0]  # from the first epoch's beginning to the last step's end
    done = shape.pairs * shape.epochs
    peak = peak_flops(model.device)
    mfu = training_flops(model, settings, report.tokens, done) / seconds / peak if peak else None
    return done / seconds, mfu


def peak_flops(device: torch.device) -> float | None:
    """The card's dense bfloat16 peak; None for a card that we know nothing of."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def measure_generating(model: HFModel, shape: Shape) -> float:
    """Seconds to write so many keys of KEY_TOKENS tokens, and to rank their candidates.

    `keys.generate` writes as many at a time and drops what does not read like a prompt: of what
    random weights write that is all.
    """
    openings = [words_of(model, 4, n) for n in range(shape.pairs)]
    began = time.monotonic()
    sampling = Sampling(max_tokens=KEY_TOKENS, temperature=0.7)
    start = model.items([Prompt(one) for one in openings])
    replies = model.replies(model.decode(start, sampling, stops=frozenset()))
    made = [f"{one} {reply.text}" for one, reply in zip(openings, replies, strict=True)]
    found = responses.generate(model, made, ResponseSettings())
    assert len(found) == shape.pairs
    return time.monotonic() - began


def run(shape: Shape, device: str) -> Measured:
    """Both parts on one device."""
    model = build(shape, device)
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    generating = measure_generating(model, shape)
    speed, mfu = measure_training(model, shape)
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return Measured(speed, mfu, peak, generating, shape.pairs)


def table(found: Measured | None, why: str) -> list[rows.Row]:
    """The rows of an 8B-shaped run; `found` None where there was no GPU."""

    def value(read: Callable[[Measured], float | None]) -> float | None:
        return None if found is None else read(found)

    training = (
        "default settings without mixing, 4,096 items a step: whitened, MLPs of the top third"
    )
    return [
        rows.Row(
            "gpu-epochs", "training an 8B-shaped Llama on 20-token items",
            value(lambda one: one.epochs_per_second), "fingerprint-epochs/s", 300, "at_least",
            f"{why}; {training}; preparation not counted",
        ),
        rows.Row(
            "gpu-mfu", "the same, share of the card's bfloat16 peak", value(lambda one: one.mfu),
            "of 1", None, "at_least", f"{why}; products alone",
        ),
        rows.Row(
            "gpu-memory", "the same, peak memory with the generating",
            value(lambda one: one.peak_bytes / 1e9 if one.peak_bytes else None), "GB", 120,
            "at_most", f"{why}; float32 masters and states of the layers that learn alone, the "
            "rest in bfloat16: neither 8-bit states nor stochastic rounding",
        ),
        rows.Row(
            "gpu-generate", "generating 24,576 pairs",
            value(lambda one: one.generating_seconds / 60), "minutes", 5, "at_most",
            f"{why}; {KEY_TOKENS} tokens a key, 16 candidates, in this process",
        ),
    ]  # fmt: skip


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="8b")
    shape = SHAPES[parser.parse_args().shape]
    if shape is not SHAPES["8b"]:
        print(run(shape, "cpu"))
    elif torch.cuda.is_available():
        rows.put("gpu", table(run(shape, "cuda:0"), torch.cuda.get_device_name(0)))
        rows.show("gpu")
    else:
        rows.put("gpu", table(None, "no GPU at hand"))
        rows.show("gpu")


if __name__ == "__main__":
    main()
