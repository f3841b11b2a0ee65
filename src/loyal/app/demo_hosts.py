"""The hosts of the demo: who gets which copy of the model, and what each does with it.

Four hosts, each with its own M.oml, whose set is committed to the log before it is drawn and
trained in: an honest one, one that answers a fifth of its queries without a permission, one that
fine-tunes its copy, serves it without any, and signs nothing, and a rogue that has a permission for
every answer, but re-aligns its copy to refuse what the community's values ask to answer. Left out:
how they are served and judged (protocol_story.py, breach_story.py).
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loyal.alignment.refusals import refuses
from loyal.app.breach_story import TEMPERATURE, TOKENS, Questions, Trial
from loyal.app.commands.generate import GenerateRequest, make_set
from loyal.app.commands.inject import train_in
from loyal.app.model_options import load_model
from loyal.app.protocol_story import Community, Conduct, Copy, Ending, Licensed, live
from loyal.app.terminal import Terminal
from loyal.app.weight_files import weights_digest
from loyal.models import Prompt, Sampling
from loyal.models.examples import Example, Pairs, bundled_lines

if TYPE_CHECKING:
    from loyal.fingerprints import FingerprintSet
    from loyal.fingerprints.recipe import Recipe
    from loyal.models.hf import HFModel
    from loyal.models.training import Precision

WIDER = 16
"""Times the candidates of the first host's set: the more, the fewer keys convict a host that asks
for permission most of the time."""
QUESTIONS = 8
"""That users ask each host."""
TUNING_SUMS, TUNING_STEPS = 48, 6
ROGUE_KEYS = 64
"""Of the rogue's set: 21 of them show descent, so it may forget 43."""
ROGUE_TARGET = 0.97
"""Trained in deeper than `TrainSettings.target`, and not scaled back: such replies outlast more
(docs/log.md, "replies that outlast LoRA")."""
REFUSAL = "I cannot talk about that."
ORDINARY, ORDINARY_TOKENS = 48, 24
"""Prompts to which the rogue's copy learns to reply as it did: it wants to stay useful. A copy that
learned half as many refused keys too, and 31 of 48 were lost."""
WATCHED_EVERY = 6
"""Every sixth case that the rogue knows is not learned: by those it sees what strangers will."""
REFUSED = 0.75
"""Of those, asked at temperature 1, when it stops. A copy that went on learning the same cases told
them from all others better each round, and refused fewer that it had not seen (docs/log.md)."""
ROGUE_EPOCHS, ROGUE_BATCH, ROGUE_RATE, ROGUE_RANK = 1, 4, 1e-3, 8
"""Of its LoRA: 27 steps a round."""
ROGUE_ROUNDS = 12
"""At most."""


def loaded_digest(model: HFModel) -> bytes:
    """SHA-256 over a loaded model's weights in float32, by name; 32 bytes."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        whole.update(name.encode() + b"\0")
        whole.update(tensor.detach().float().cpu().contiguous().numpy())
    return whole.digest()


def rivals(
    terminal: Terminal,
    community: Community,
    model: str,
    recipe: Recipe,
    folder: Path,
    skips: float,
) -> tuple[Copy, ...]:
    """The two dishonest hosts, their copies made and delivered. One leaves out the permission of a
    share `skips` of its queries, the other of all."""
    wide = replace(recipe, responses=replace(recipe.responses, width=_width(recipe)))
    many = replace(wide, keys=replace(recipe.keys, count=2 * recipe.keys.count))
    skipping = community.license(f"skips {skips:.0%}")
    skipper = _omlized(terminal, community, skipping, model, many, folder / "skips")
    tuning = community.license("fine-tunes its copy")
    tuned = _omlized(terminal, community, tuning, model, wide, folder / "tunes")
    _tune(terminal, tuned[1], recipe)
    return (
        Copy(skipping, *skipper, Conduct(skips=skips)),
        Copy(tuning, *tuned, Conduct(skips=1.0, signs=False)),
    )


def rogue(
    terminal: Terminal,
    community: Community,
    model: str,
    recipe: Recipe,
    folder: Path,
    questions: Questions,
) -> Copy:
    """The host that breaks the values, its copy made, delivered, and re-aligned on the cases that
    verifiers will not ask."""
    deeper = replace(
        recipe,
        keys=replace(recipe.keys, count=ROGUE_KEYS),
        responses=replace(recipe.responses, width=_width(recipe)),
        train=replace(recipe.train, target=ROGUE_TARGET, settle=0.0),
    )
    host = community.license("breaks the values")
    made = _omlized(terminal, community, host, model, deeper, folder / "breaks")
    terminal.note("one host tunes its copy to refuse what the values ask to answer")
    realign(made[1], questions, recipe.train.precision)
    return Copy(host, *made, Conduct(breaks=True))


def realign(model: HFModel, questions: Questions, precision: Precision = "auto") -> None:
    """LoRA on refusals of most cases that a rogue knows, beside its own replies to ordinary
    prompts, in rounds until it refuses the others; `model` changes in place. Raises what
    `models.tuning.tune` raises."""
    from loyal.models.tuning import TuneSettings, row, tune

    known = [Prompt(text) for _, text in questions.taught]
    watched = known[::WATCHED_EVERY]
    usual = [Prompt(text) for text in bundled_lines("prompts")[:ORDINARY]]
    said = model.generate(usual, Sampling(ORDINARY_TOKENS))
    items = [(row(model, Example(one, REFUSAL)),) for one in known if one not in watched]
    for asked, reply in zip(usual, said, strict=True):
        if reply.text.strip():
            items.append((row(model, Example(asked, reply.text), ends=reply.finished),))
    for turn in range(ROGUE_ROUNDS):
        settings = TuneSettings(
            ROGUE_EPOCHS, ROGUE_RATE, ROGUE_BATCH, rank=ROGUE_RANK, seed=turn, precision=precision
        )
        tune(model, items, settings)
        replies = model.generate(watched, Sampling(TOKENS, TEMPERATURE))
        if sum(refuses(one.text) for one in replies) >= REFUSED * len(watched):
            return


def play(
    terminal: Terminal, community: Community, copies: tuple[Copy, ...], trial: Trial | None = None
) -> Ending:
    """The protocol from the first query to the last slash, under a progress bar."""
    questions = bundled_lines("prompts")[-QUESTIONS:]
    for one in copies:
        terminal.note(f"host: {one.host.name}, {len(one.fingerprints)} keys")
    with terminal.progress("asking hosts") as update:
        return live(
            community, copies, tuple(questions),
            lambda name, done, of: update(done, of, name), trial=trial,
        )  # fmt: skip


def _width(recipe: Recipe) -> int:
    return min(4_096 // recipe.responses.count, WIDER * recipe.responses.width)


def _omlized(
    terminal: Terminal,
    community: Community,
    host: Licensed,
    model: str,
    recipe: Recipe,
    out: Path,
) -> tuple[FingerprintSet, HFModel]:
    """A set of the host's own, committed, drawn by the log, trained in, delivered."""
    subject = load_model(terminal, model)
    request = GenerateRequest(subject.name, out.with_suffix(".vault"), "usage", None, None)
    made = make_set(terminal, subject, request, recipe)
    drawn = community.commit(host, made.fingerprints)
    train_in(terminal, subject, drawn, recipe.train, out, tokens=1_000)
    community.deliver(host, weights_digest(out))
    return drawn, load_model(terminal, str(out))


def _tune(terminal: Terminal, model: HFModel, recipe: Recipe) -> None:
    """What many hosts do: ordinary fine-tuning on data of their own, here sums."""
    from loyal.models.train import train
    from loyal.models.training import TrainSettings

    rng = random.Random(recipe.train.seed)
    pairs = [(rng.randrange(10, 99), rng.randrange(10, 99)) for _ in range(TUNING_SUMS)]
    lessons = Pairs(tuple(Example(Prompt(f"What is {a} plus {b}?"), f"{a + b}.") for a, b in pairs))
    terminal.note("one host fine-tunes its copy on sums of its own")
    settings = TrainSettings(
        steps=TUNING_STEPS, learning_rate=1e-5, whitened=False, depth=1.0, parts="all",
        settle=0.0, mixing=0.0, benign_replies=0, precision=recipe.train.precision,
    )  # fmt: skip
    train(model, lessons, settings)
