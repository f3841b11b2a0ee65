"""What a host can do to prompts and replies while it serves M.oml, the weights untouched.

Each attack is a wrapper that satisfies `LanguageModel` and asks the model in batches, as before:
`Asked` rewrites prompts, `Served` writes replies in its own way, `prompt_filter.Filtered` refuses
prompts, and `suppression.Steered` forbids tokens. ATTACKS lists them for the suite.

A response is matched at the beginning of a reply, and of the phrases that follow soon after: a host
that puts words before every reply ("Sure. ", the attack `reply-opening`) hides none. One that
starts the model's own reply for it (`prefill`) does, at a price in utility.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loyal.fingerprints import rewording
from loyal.fingerprints.attack import Attack, Family, Scene
from loyal.fingerprints.prompt_filter import Filtered, Side, calibrated, ordinary_halves
from loyal.fingerprints.suppression import (
    THRESHOLD,
    Lookahead,
    Steered,
    Steering,
    forbid_likeliest,
    forbid_neighbors,
    forbid_unlike,
    look_ahead,
)
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Reply, Sampling, TokenChance

DRAFT_TOKENS = 48
"""Least length of a reply that the model rewrites: half a sentence has no other words."""
PROMPT_TOKENS = 96
"""Most tokens of a prompt that the model rewrites."""
PREFILL = "Sure,"
LOW_THRESHOLD = 0.5
"""Ours, for responses that are trained to be less sure than 0.9."""
TEMPERATURE = 0.7
"""Of the sampled form of an attack: what servers mostly use."""

REVISING = (
    "Answer only what the user asks, in full sentences. Before you reply, check that your answer "
    "is about the question; leave out every word that has nothing to do with it."
)
"""System message in the manner of GRI (arXiv 2503.21805): the answer is checked against the
question. Own words."""
ASK_AGAIN = "Rewrite this message in other words and keep its meaning.\nMessage: "
"""Stands before the prompt that a model rewrites."""

Write = Callable[[Sequence[Prompt], Sampling], list[Reply]]


@dataclass(frozen=True, repr=False)
class Asked:
    """A model that is asked rewritten prompts. Satisfies `LanguageModel`."""

    model: LanguageModel
    rewrite: Callable[[Sequence[Prompt]], list[Prompt]]

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.model.name

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One reply a prompt, to its rewritten form."""
        return self.model.generate(self.rewrite(prompts), sampling)

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """The likeliest first tokens behind the rewritten prompts."""
        return self.model.next_token(self.rewrite(prompts), top)

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Chances of the replies' tokens behind the rewritten prompts."""
        return self.model.logprobs(self.rewrite(prompts), replies)


@dataclass(frozen=True, repr=False)
class Served:
    """A model whose replies are written in another way. Satisfies `LanguageModel`.

    Chances are the model's own.
    """

    model: LanguageModel
    write: Write

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.model.name

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One reply a prompt."""
        return self.write(prompts, sampling) if prompts else []

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """The model's own."""
        return self.model.next_token(prompts, top)

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """The model's own."""
        return self.model.logprobs(prompts, replies)


def each_prompt(model: LanguageModel, rule: Callable[[str], str]) -> Asked:
    """The text of every prompt goes through `rule`; a text that it leaves empty stays as it was."""
    return Asked(
        model, lambda prompts: [replace(one, text=rule(one.text) or one.text) for one in prompts]
    )


def each_reply(model: LanguageModel, rule: Callable[[str], str]) -> Served:
    """The text of every reply goes through `rule`."""

    def write(prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        replies = model.generate(prompts, sampling)
        return [replace(one, text=rule(one.text)) for one in replies]

    return Served(model, write)


def under_system(model: LanguageModel, system: str) -> Asked:
    """Every prompt under this system message, the user's own below it; raw prompts as they are."""

    def rewrite(prompts: Sequence[Prompt]) -> list[Prompt]:
        return [
            one
            if one.raw
            else replace(one, system=system if one.system is None else f"{system}\n{one.system}")
            for one in prompts
        ]

    return Asked(model, rewrite)


def paraphrased(model: LanguageModel, instruction: str = ASK_AGAIN) -> Asked:
    """Every prompt rewritten by the model itself first; where it writes nothing, as it was."""

    def rewrite(prompts: Sequence[Prompt]) -> list[Prompt]:
        asked = [Prompt(instruction + one.text) for one in prompts]
        drafts = model.generate(asked, Sampling(max_tokens=PROMPT_TOKENS))
        texts = [draft.text.strip().strip('"').strip() for draft in drafts]
        return [
            replace(one, text=text or one.text) for one, text in zip(prompts, texts, strict=True)
        ]

    return Asked(model, rewrite)


def say_again(prompt: Prompt, reply: Reply) -> str:
    """What asks a model for its reply in other words."""
    return f"Rewrite this text in other words and keep its meaning.\nText: {reply.text}"


def revise(prompt: Prompt, reply: Reply) -> str:
    """What asks a model to check its reply against the question, as GRI does (arXiv 2503.21805)."""
    return (
        f"Question: {prompt.text}\nDraft of an answer: {reply.text}\nWrite a better answer to the "
        "question. Leave out what has nothing to do with it."
    )


def rewritten(
    model: LanguageModel, instruction: Callable[[Prompt, Reply], str] = say_again
) -> Served:
    """Every reply written in full, then again by the model; where that is nothing, as it was."""

    def write(prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        longer = replace(sampling, max_tokens=max(sampling.max_tokens, DRAFT_TOKENS))
        drafts = model.generate(prompts, longer)
        asked = [
            Prompt(instruction(one, draft)) for one, draft in zip(prompts, drafts, strict=True)
        ]
        again = model.generate(asked, sampling)
        return [new if new.text.strip() else old for old, new in zip(drafts, again, strict=True)]

    return Served(model, write)


def prefilled(model: HFModel, text: str = PREFILL, shown: bool = True) -> Served:
    """Every reply is begun for the model ("English prefill" in arXiv 2505.16723).

    A host that does not show the words that it put in front leaves prefix matching its chance.
    `max_tokens` counts what the model adds.
    """
    ids = tuple(model.reply_ids(text))

    def write(prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        items = [replace(one, ids=(*one.ids, *ids)) for one in model.items(prompts)]
        replies = model.replies(model.decode(items, sampling))
        return [replace(one, text=text + one.text) for one in replies] if shown else replies

    return Served(model, write)


def sampled(model: LanguageModel, temperature: float, seed: int | None = None) -> Served:
    """Replies drawn at this temperature, whatever the user asked for."""
    return Served(
        model,
        lambda prompts, sampling: model.generate(
            prompts, replace(sampling, temperature=temperature, seed=seed)
        ),
    )


_SUPPRESSION = "arXiv 2509.26598"
_REWRITING = "arXiv 2505.16723"


def _steered(name: str, what: str, steering: Steering, quick: bool = False) -> Attack:
    return Attack(
        name,
        "suppression",
        what,
        _SUPPRESSION,
        lambda scene: Steered(scene.model, steering),
        quick,
    )


def _prompts(name: str, what: str, rule: Callable[[str], str], quick: bool = False) -> Attack:
    return Attack(
        name,
        "paraphrase",
        what,
        _REWRITING,
        lambda scene: each_prompt(scene.model, rule),
        quick,
    )


def _filtered(name: str, what: str, side: Side, base: bool, quick: bool = False) -> Attack:
    def run(scene: Scene) -> LanguageModel:
        judge = scene.base() if base else scene.model
        return Filtered(scene.model, calibrated(judge, ordinary_halves()[0], side=side))

    return Attack(name, "filter", what, _SUPPRESSION, run, quick)


def _wrapped(
    family: Family,
    name: str,
    what: str,
    source: str,
    wrap: Callable[[HFModel], LanguageModel],
    quick: bool = False,
) -> Attack:
    return Attack(name, family, what, source, lambda scene: wrap(scene.model), quick)


_STEERED = (
    _steered(
        "suppress-top-1",
        "Forbids the likeliest first token of every reply.",
        forbid_likeliest(),
        quick=True,
    ),
    _steered(
        "suppress-top-3",
        "Forbids the three likeliest tokens at the first three places of every reply.",
        forbid_likeliest(k=3, places=3),
    ),
    _steered(
        "detect-top-1",
        "Forbids the likeliest first token where its chance is above 0.9.",
        forbid_likeliest(threshold=THRESHOLD),
        quick=True,
    ),
    _steered(
        "detect-top-1-low",
        "Forbids the likeliest first token where its chance is above 0.5.",
        forbid_likeliest(threshold=LOW_THRESHOLD),
    ),
    _steered(
        "suppress-neighbor",
        "Forbids the likeliest first token and those whose word begins like it.",
        forbid_neighbors(),
    ),
    _steered(
        "detect-neighbor",
        "The same where that token's chance is above 0.9.",
        forbid_neighbors(threshold=THRESHOLD),
    ),
    _steered(
        "suppress-neighbor-embedding",
        "Forbids the likeliest first token, those whose word begins like it, and the 16 nearest by "
        "embedding.",
        forbid_neighbors(nearest=16),
    ),
    _steered(
        "detect-neighbor-embedding",
        "The same where that token's chance is above 0.9.",
        forbid_neighbors(threshold=THRESHOLD, nearest=16),
    ),
    _steered(
        "suppress-lookahead",
        "Holds down at 16 places what ten continuations of the prompt say with a high chance.",
        look_ahead(),
    ),
    _steered(
        "detect-lookahead",
        "The same at places where such a token's chance is above 0.9.",
        look_ahead(Lookahead(threshold=THRESHOLD)),
    ),
    Attack(
        "detect-unlike-base",
        "suppression",
        "Forbids first tokens that are over 20 times as likely as under the public base.",
        "arXiv 2406.12257",
        lambda scene: Steered(scene.model, forbid_unlike(scene.base())),
        quick=True,
    ),
    _wrapped(
        "suppression",
        "detect-top-1-sampled",
        "Forbids the likeliest first token where its chance is above 0.9, and samples at 0.7.",
        _SUPPRESSION,
        lambda model: sampled(Steered(model, forbid_likeliest(threshold=THRESHOLD)), TEMPERATURE),
    ),
)

_FILTERS = (
    _filtered(
        "filter-perplexity",
        "Refuses the prompts that are the least likely under M.oml, 1 % of ordinary ones.",
        "unlikely",
        base=False,
        quick=True,
    ),
    _filtered(
        "filter-perplexity-base",
        "Refuses the prompts that are the least likely under the base, 1 % of ordinary ones.",
        "unlikely",
        base=True,
    ),
    _filtered(
        "filter-too-likely",
        "Refuses the prompts that are the likeliest under M.oml, 1 % of ordinary ones.",
        "likely",
        base=False,
    ),
)

_PROMPTS = (
    _prompts(
        "prompt-please",
        'Puts "Please tell me: " before every prompt.',
        lambda text: rewording.ASKING + text,
        quick=True,
    ),
    _prompts("prompt-synonyms", "Replaces words of every prompt by a table.", rewording.synonyms),
    _prompts("prompt-reordered", "Changes the order of sentences or clauses.", rewording.reordered),
    _prompts(
        "prompt-reworded",
        'Replaces words, changes the order, and puts "Please tell me: " before it.',
        rewording.reworded,
    ),
    _prompts("prompt-lower-case", "Writes every prompt in lower case.", rewording.lower_case),
    _prompts("prompt-single-spaces", "Closes runs of white space.", rewording.single_spaces),
    _prompts("prompt-without-marks", "Drops punctuation.", rewording.without_marks),
    _prompts(
        "prompt-normalized",
        "Lower case, no punctuation, single spaces.",
        rewording.normalized,
        quick=True,
    ),
    _wrapped(
        "paraphrase",
        "prompt-model",
        "Has the served model rewrite every prompt before it answers.",
        _REWRITING,
        paraphrased,
    ),
)

_REPLIES = (
    _wrapped(
        "paraphrase",
        "reply-opening",
        'Puts "Sure. " before every reply.',
        _REWRITING,
        lambda model: each_reply(model, lambda text: rewording.OPENING + text),
        quick=True,
    ),
    _wrapped(
        "paraphrase",
        "reply-synonyms",
        "Replaces words of every reply by a table.",
        _REWRITING,
        lambda model: each_reply(model, rewording.synonyms),
    ),
    _wrapped(
        "paraphrase",
        "reply-model",
        "Has the served model rewrite every reply.",
        _REWRITING,
        rewritten,
    ),
    _wrapped(
        "paraphrase",
        "reply-revised",
        "Has the served model check every reply against the question and write a better one.",
        "arXiv 2503.21805",
        lambda model: rewritten(model, revise),
    ),
    _wrapped(
        "prompt",
        "prefill",
        'Begins every reply with "Sure," and shows it.',
        _REWRITING,
        prefilled,
    ),
    _wrapped(
        "prompt",
        "prefill-hidden",
        'Begins every reply with "Sure," and shows what the model adds alone.',
        _REWRITING,
        lambda model: prefilled(model, shown=False),
        quick=True,
    ),
    _wrapped(
        "prompt",
        "system-revising",
        "Puts a system message before every prompt: answer only what is asked, in full sentences.",
        "arXiv 2503.21805",
        lambda model: under_system(model, REVISING),
    ),
)

ATTACKS: tuple[Attack, ...] = (*_STEERED, *_FILTERS, *_PROMPTS, *_REPLIES)
"""What a host does while serving, in the order of reports."""
