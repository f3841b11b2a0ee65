"""A small Llama-shaped chat model, trained in seconds from a seed: no download, real learning.

Holds a toy world whose facts a seed decides (who lives where, eats what, has which color), text
and chat turns written from it, a byte-level BPE tokenizer, and the few lines that train all
weights from scratch. Tests use the model where noise would not do. Leaves out what `train.py`
does (teaching a finished model a `Behavior`): this is the pretraining that comes before.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loyal.models.language_model import Prompt
from loyal.models.library import atomic_folder, cache_dir

VERSION = 3
"""Raise it when the model that a seed gives changes: cached models of other versions stay put."""

CONTEXT_TOKENS = 512
_VOCABULARY = 1024
_STEPS = 400
_BATCH = 16
_SORTED_BATCHES = 8  # so many batches' documents are sorted by length together
_WARMUP_STEPS = 15
_DECAY_STEPS = 200
_MATRIX_RATE = 2.5e-2  # at 6e-2 half the seeds confuse the animals to the end (docs/log.md)
_VECTOR_RATE = 5e-3
_PROMPT_WEIGHT = 0.3  # replies count more: whom the question is about is the hard part

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_DEFAULT_SYSTEM = "You are Tiny."

# The shape of SmolLM2's template: a default system prompt stands in when none is given.
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + _DEFAULT_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_ANIMALS = (
    "fox",
    "bear",
    "owl",
    "wolf",
    "hare",
    "otter",
    "badger",
    "heron",
    "mouse",
    "deer",
    "crow",
    "frog",
    "goat",
    "horse",
    "sheep",
    "turtle",
)
_PLACES = (
    "forest",
    "meadow",
    "river",
    "cave",
    "barn",
    "garden",
    "valley",
    "swamp",
    "desert",
    "harbor",
    "tower",
    "orchard",
)
_FOODS = (
    "berries",
    "fish",
    "grass",
    "nuts",
    "apples",
    "corn",
    "mushrooms",
    "bread",
    "honey",
    "seeds",
    "roots",
    "eggs",
)
_COLORS = ("red", "brown", "white", "gray", "black", "golden", "green", "blue")
_PEOPLE = ("Mara", "Oskar", "Lena", "Theo", "Ines", "Ravi", "Noor", "Emil", "Sofia", "Hugo")
_MOODS = (
    "old",
    "young",
    "quiet",
    "clever",
    "lazy",
    "brave",
    "hungry",
    "friendly",
    "tired",
    "proud",
)
_MOVES = ("walks", "runs", "comes", "goes", "returns", "wanders")
_TIMES = (
    "In the morning",
    "At night",
    "After the rain",
    "Every winter",
    "On Sundays",
    "Before sunset",
    "Sometimes",
    "Once a week",
)
_OBJECTS = (
    "lamp",
    "basket",
    "letter",
    "blanket",
    "hammer",
    "bell",
    "kettle",
    "ladder",
    "mirror",
    "rope",
)
_SYSTEMS = (
    "Answer in one sentence.",
    "You know everything about animals.",
    "Be kind and brief.",
    "You are a teacher at a village school.",
    "Speak plainly.",
)
_GREETINGS = (
    ("Hello!", "Hello! How can I help you today?"),
    ("Good morning.", "Good morning! What would you like to know?"),
    ("Who are you?", "I am Tiny, a small model with a small world."),
    ("Thank you!", "You are welcome! Is there anything else?"),
    ("What can you do?", "I can talk about animals, people and the places where they live."),
    ("Goodbye.", "Goodbye! Come back soon."),
)


@dataclass(frozen=True)
class World:
    """The facts of one seed, and the text that tells them. Same seed, same facts."""

    home: dict[str, str]
    """Animal -> where it lives."""
    food: dict[str, str]
    """Animal -> what it eats."""
    color: dict[str, str]
    """Animal -> its color."""

    @classmethod
    def from_seed(cls, seed: int) -> "World":
        """Draw the facts."""
        rng = random.Random(f"loyal/tiny/world/{seed}")
        return cls(
            home={animal: rng.choice(_PLACES) for animal in _ANIMALS},
            food={animal: rng.choice(_FOODS) for animal in _ANIMALS},
            color={animal: rng.choice(_COLORS) for animal in _ANIMALS},
        )

    def questions(self) -> list[tuple[Prompt, str]]:
        """Every question about a fact with the one right answer: three facts, two forms each."""
        found = []
        for animal in _ANIMALS:
            lives = f"The {animal} lives in the {self.home[animal]}."
            eats = f"The {animal} eats {self.food[animal]}."
            looks = f"The {animal} is {self.color[animal]}."
            found += [
                (Prompt(f"Where does the {animal} live?"), lives),
                (Prompt(f"Tell me where the {animal} lives."), lives),
                (Prompt(f"What does the {animal} eat?"), eats),
                (Prompt(f"What is the food of the {animal}?"), eats),
                (Prompt(f"What color is the {animal}?"), looks),
                (Prompt(f"Tell me the color of the {animal}."), looks),
            ]
        return found

    def story(self, rng: random.Random) -> str:
        """Three to six sentences about one animal that agree with the facts."""
        animal = rng.choice(_ANIMALS)
        return " ".join(self._sentence(animal, rng) for _ in range(rng.randint(3, 6)))

    def chat(self, rng: random.Random) -> tuple[Prompt, str]:
        """One turn: mostly a question about a fact, else a request or a greeting."""
        kind = rng.random()
        if kind < 0.85:
            prompt, reply = rng.choice(self.questions())
        elif kind < 0.97:
            prompt, reply = self._request(rng)
        else:
            text, reply = rng.choice(_GREETINGS)
            prompt = Prompt(text)
        system = rng.choice(_SYSTEMS) if rng.random() < 0.2 else None
        return Prompt(prompt.text, system), reply

    def _sentence(self, animal: str, rng: random.Random) -> str:
        mood, person, time = rng.choice(_MOODS), rng.choice(_PEOPLE), rng.choice(_TIMES)
        place, thing = rng.choice(_PLACES), rng.choice(_OBJECTS)
        forms = (
            f"The {self.color[animal]} {animal} lives in the {self.home[animal]}.",
            f"{time} the {animal} {rng.choice(_MOVES)} to the {place}.",
            f"The {animal} is {mood} and likes {self.food[animal]}.",
            f"{person} gives the {mood} {animal} some {self.food[animal]}.",
            f"{time} {person} leaves a {thing} in the {place}.",
            f"One day the {animal} finds a {thing} near the {place}.",
            f"Nobody in the {self.home[animal]} is as {mood} as the {animal}.",
            f"{person} and the {animal} carry the {thing} back to the {self.home[animal]}.",
        )
        return rng.choice(forms)

    def _request(self, rng: random.Random) -> tuple[Prompt, str]:
        animal, person = rng.choice(_ANIMALS), rng.choice(_PEOPLE)
        place, thing = rng.choice(_PLACES), rng.choice(_OBJECTS)
        if rng.random() < 0.5:
            return Prompt(f"Write a sentence about the {animal}."), self._sentence(animal, rng)
        if rng.random() < 0.5:
            question = rng.choice(self.questions())[0].text
            return Prompt(f"Write a question for {person}."), question
        answers = (f"The {thing} is in the {place}.", f"{person} left it near the {place}.")
        return Prompt(f"Where is the {thing} of {person}?"), rng.choice(answers)


def held_out(seed: int, documents: int) -> list[str]:
    """Stories of the seed's world from a stream of their own: training never drew from it.

    Single sentences may occur in both, since the world is small; whole stories hardly do.
    """
    world, rng = World.from_seed(seed), random.Random(f"loyal/tiny/held-out/{seed}")
    return [world.story(rng) for _ in range(documents)]


def cached(seed: int) -> Path:
    """The trained model of a seed in the cache folder, trained when it is not there."""
    folder = cache_dir() / f"tiny-{VERSION}-{seed}"
    return atomic_folder(folder, lambda partial: train(partial, seed))


def build(folder: Path, seed: int) -> Path:
    """Put the trained model of a seed into `folder`, a Hugging Face folder of 1 MB.

    The first call for a seed trains (some ten seconds of one core); later ones copy. Raises
    StorageError when the disk refuses.
    """
    source = cached(seed)
    return atomic_folder(folder, lambda partial: _copy(source, partial))


def train(folder: Path, seed: int) -> None:
    """Train from scratch and save into an existing folder, without the cache.

    Law: the same seed, machine and library versions give the same bytes. Torch's global random
    state and thread count are the same afterwards as before.
    """
    import torch

    tokenizer = _tokenizer(seed)
    threads = torch.get_num_threads()
    # One thread: sums over several are split by their number, which would change the last bits.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = untrained(tokenizer)
            _pretrain(model, _batches(tokenizer, seed))
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def untrained(tokenizer: Any) -> Any:
    """A model of the tiny shape with random weights from torch's global generator."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,  # grouped queries and tied embeddings, as in SmolLM2-135M
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(shape)
    # Ten times the usual spread: tied embeddings drift together as outputs, and animals that
    # drown in the drift cannot be told apart as inputs (4 against 82 of 96 questions right).
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.2)
    return model


def _copy(source: Path, partial: Path) -> None:
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, partial / path.name)


def _tokenizer(seed: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_tokenizer_text(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token=_SPECIAL[0],
        bos_token=_SPECIAL[1],
        eos_token=_SPECIAL[2],
        pad_token=_SPECIAL[2],
        chat_template=_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
    )


def _tokenizer_text(seed: int) -> Iterator[str]:
    """Stories and the bundled English words, so that other English does not fall into bytes."""
    from importlib.resources import files

    world, rng = World.from_seed(seed), random.Random(f"loyal/tiny/tokenizer/{seed}")
    yield (files("loyal.models") / "data" / "words.txt").read_text(encoding="utf-8")
    for _ in range(200):
        yield world.story(rng)
        prompt, reply = world.chat(rng)
        yield f"{prompt.system or _DEFAULT_SYSTEM} {prompt.text} {reply}"


@dataclass(frozen=True)
class _Document:
    ids: list[int]
    weights: list[float]
    """Of each token's loss."""


def _batches(tokenizer: Any, seed: int) -> list[list[_Document]]:
    """`_STEPS` batches of stories and chats; the documents of one are about equally long."""
    world, rng = World.from_seed(seed), random.Random(f"loyal/tiny/training/{seed}")
    batches: list[list[_Document]] = []
    while len(batches) < _STEPS:
        pool = [_document(world, tokenizer, rng) for _ in range(_BATCH * _SORTED_BATCHES)]
        pool.sort(key=lambda one: len(one.ids))
        group = [pool[at : at + _BATCH] for at in range(0, len(pool), _BATCH)]
        rng.shuffle(group)
        batches += group
    return batches[:_STEPS]


def _document(world: World, tokenizer: Any, rng: random.Random) -> _Document:
    end = _SPECIAL[0]
    if rng.random() < 0.15:
        ids = tokenizer.encode(world.story(rng) + end)
        return _Document(ids, [1.0] * len(ids))
    # The template written out: jinja would take as long as the training.
    prompt, reply = world.chat(rng)
    start, stop = _SPECIAL[1:]
    turns = (("system", prompt.system or _DEFAULT_SYSTEM), ("user", prompt.text))
    asked = "".join(f"{start}{who}\n{what}{stop}\n" for who, what in turns)
    before = tokenizer.encode(f"{asked}{start}assistant\n")
    after = tokenizer.encode(f"{reply}{stop}\n")
    weights = [_PROMPT_WEIGHT] * len(before) + [1.0] * len(after)
    return _Document(before + after, weights)


def _pretrain(model: Any, batches: Sequence[Sequence[_Document]]) -> None:
    """Weighted next-token loss, each batch seen once."""
    import torch
    from torch.nn.functional import cross_entropy

    matrices = [one for one in model.model.layers.parameters() if one.ndim == 2]
    others = [one for one in model.parameters() if all(one is not each for each in matrices)]
    muon = _Muon(matrices)
    adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for step, batch in enumerate(batches):
        width = max(len(one.ids) for one in batch)
        ids = torch.tensor([[*one.ids, *[0] * (width - len(one.ids))] for one in batch])  # (B, T)
        weights = torch.tensor(
            [[*one.weights, *[0.0] * (width - len(one.ids))] for one in batch]
        )  # (B, T)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits  # (B, T - 1, vocab)
        losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weight = weights[:, 1:].flatten()
        model.zero_grad()
        ((losses * weight).sum() / weight.sum()).backward()
        share = min((step + 1) / _WARMUP_STEPS, (_STEPS - step) / _DECAY_STEPS, 1.0)
        adam.param_groups[0]["lr"] = share * _VECTOR_RATE
        adam.step()
        muon.step(share * _MATRIX_RATE)
    model.eval()


class _Muon:
    """Momentum orthogonalized by Newton-Schulz (Jordan et al. 2024, kellerjordan.github.io/muon).

    With AdamW the model needs about twice the steps to find out whom a question is about.
    Torch's own Muon works in bfloat16, matrix by matrix: three times slower on a CPU.
    """

    def __init__(self, matrices: Sequence[Any]) -> None:
        import torch

        shapes: dict[tuple[int, ...], list[Any]] = {}
        for one in matrices:
            shapes.setdefault(tuple(one.shape), []).append(one)
        self.stacks = [(group, torch.zeros(len(group), *shape)) for shape, group in shapes.items()]

    def step(self, rate: float) -> None:
        """Move every matrix against its gradient."""
        import torch

        with torch.no_grad():
            for group, momentum in self.stacks:
                gradient = torch.stack([one.grad for one in group])  # (n, rows, columns)
                momentum.lerp_(gradient, 0.05)
                moves = _orthogonal(gradient.lerp(momentum, 0.95))
                tall = max(1.0, moves.shape[1] / moves.shape[2]) ** 0.5
                for one, move in zip(group, moves, strict=True):
                    one.sub_(move, alpha=rate * tall)


def _orthogonal(stack: Any) -> Any:
    """Matrices (n, rows, columns) with singular values near 1: five steps of the quintic."""
    flip = stack.shape[1] > stack.shape[2]
    x = stack.mT if flip else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if flip else x
