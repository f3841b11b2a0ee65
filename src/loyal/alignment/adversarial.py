"""Hardens a model's values against people who argue: attack, judge, train, again.

"Training AI to be Loyal", section 3. A round of the adaptive mode:

1. attack      the model as it now is, by families of the training split, over all values
2. judge       several replies of its own to each attack; what has no score is dropped, but in the
               band of a calibrated judge its chance ranks a reply all the same
3. keep        the attacks with the lowest scores, as long as one is below the bound
4. pair        the authors' replies under that attack; or rejected is its own worst one, and chosen
               its own best if good enough
5. train       `align`, with plain pairs and pairs of earlier rounds beside; any objective, and an
               adversary of the embeddings where the recipe has one
6. guard       ordinary English and replies (`guards`), and plain questions: what a round costs too
               much is taken back; the rounds after it mix in more general data and diverge less

The static mode trains as long on attacks that were drawn beforehand, the plain one on questions
alone: what adaptive rounds are to be compared with. Held-out cases and families are never used
here. Left out: the loop (`align`), and measuring (`evaluate`).
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loyal.alignment import attacks
from loyal.alignment.align import Run, align, put_weights, weights_of
from loyal.alignment.conversation import Conversation, Turn, play
from loyal.alignment.evaluate import Share, keep_rate
from loyal.alignment.guards import Guards
from loyal.alignment.judge import identity, judgements
from loyal.alignment.judgement import Judge, Said
from loyal.alignment.objectives import balanced, pair
from loyal.alignment.preference import Preference
from loyal.alignment.settings import HardenSettings, Recipe, Replies
from loyal.alignment.trials import Trial, plain_pairs, trials
from loyal.community import Constitution
from loyal.encoding import Encodable, digest
from loyal.errors import TrainingError
from loyal.models import checkpoint
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.hidden import weights_digest
from loyal.models.language_model import Sampling

MOST_GENERAL = 0.8
"""The share of general items goes half of the way to 1 after a round that cost too much, and no
further than here."""
_PURPOSE = "loyal/hardening run/1"


@dataclass(frozen=True)
class Round:
    """What one round did. Holds no text."""

    number: int
    attacks: int
    """Asked; 0 in the plain mode."""
    abstained: int
    """Replies without a score."""
    broken: int
    """Attacks whose worst reply fell below the bound."""
    pairs: int
    """Trained on, those of earlier rounds and plain ones included."""
    families: tuple[tuple[str, int], ...]
    """Families of the attacks that broke a value, and how often."""
    general: float
    """Share of general items."""
    plain_before: Share
    """Plain training questions whose value is kept, of those that are asked."""
    plain_after: Share
    stopped: str
    """What was taken back, and why; empty for nothing."""


@dataclass(frozen=True)
class HardenReport:
    """What a hardening did."""

    mode: str
    judge: str
    rounds: tuple[Round, ...]
    seconds: float
    """Of this process's part of the run."""


def harden(
    model: HFModel, constitution: Constitution, judge: Judge, recipe: Recipe | None = None,
    general: Sequence[Example] = (), run: Run | None = None,
) -> HardenReport:  # fmt: skip
    """Train `model` in place, round by round.

    Ends early once no attack breaks a value. Laws: the same arguments, with a judge that says the
    same of the same, give the same weights on one CPU; so does a run that was cut off and called
    again with the model as it was. Raises TrainingError for a constitution without a case to train
    on, a judge that abstains on everything, and as `align`.
    """
    started = time.monotonic()
    run = run or Run()
    state = _State(model, constitution, judge, recipe or Recipe(), run)
    state.resume()
    while len(state.rounds) < state.settings.rounds and not state.held:
        state.next(general)
    return HardenReport(
        state.settings.mode, judge.name, tuple(state.rounds), time.monotonic() - started
    )


@dataclass(frozen=True)
class _Found:
    """One attack on one trial, with the worst and the best of the model's own replies."""

    trial: Trial
    attack: str
    asked: Conversation
    """As it was for the worst reply: open turns are written out."""
    worst: str
    score: float
    best: str
    """Empty where none is good enough, or its conversation went another way."""

    def preference(self, replies: Replies) -> Preference | None:
        """The pair to train on; None without a reply to prefer. A case without both replies is
        learned from the model's own."""
        written = self.trial.preference if replies == "authors" else None
        if written is not None:
            return replace(written, asked=self.asked)
        chosen = self.best or self.trial.keeps
        if not chosen.strip() or not self.worst.strip() or chosen == self.worst:
            return None
        return Preference(self.asked, chosen, self.worst, self.trial.value.id)


class _State:
    """The model between two rounds, and what was found so far."""

    def __init__(
        self, model: HFModel, constitution: Constitution, judge: Judge, recipe: Recipe, run: Run
    ) -> None:
        self.model, self.constitution, self.judge, self.run = model, constitution, judge, run
        self.settings, self.recipe = recipe.harden, recipe
        self.trials = trials(constitution, "train")
        self.plain = plain_pairs(self.trials)
        if not self.plain:
            raise TrainingError(
                f"no case of {constitution.name} has both replies",
                hint="give its cases one that keeps the value and one that breaks it",
            )
        self.guards = run.guards
        if self.guards is None and recipe.guards.steps:
            self.guards = Guards.of(model, recipe.guards)
        self.general = recipe.align.general
        self.pool: list[Preference] = []
        self.rounds: list[Round] = []
        self.held = False
        record: Encodable = [
            [str(one) for one in sorted(asdict(recipe).items())],
            [model.name, weights_digest(model)],
            identity(judge),
            constitution.digest,
        ]
        self.identity = digest(record, _PURPOSE).hex()

    def next(self, general: Sequence[Example]) -> None:
        """One round."""
        number, settings = len(self.rounds), self.settings
        rng = random.Random(f"loyal/harden/{settings.seed}/{number}")
        found, asked, abstained = self._attacked(number, rng)
        broken = [one for one in found if one.score < settings.broken_below]
        new = self._new_pairs(found if broken else [], rng)
        # A round leaves the model as it was measured then: nobody asks it twice.
        before = self.rounds[-1].plain_after if self.rounds else self._keep_rate()
        if not new:
            self.held = True
            after, stopped, count = before, "", 0
        else:
            pairs = balanced([*new, *self._replayed(new, rng)], self.constitution)
            count = len(pairs)
            after, stopped = self._train(pairs, general, before)
        families = Counter(part for one in broken for part in one.attack.split("+"))
        self.rounds.append(
            Round(
                number, asked, abstained, len(broken), count, tuple(sorted(families.items())),
                self.general, before, after, stopped,
            )
        )  # fmt: skip
        if stopped:
            self.general = min(MOST_GENERAL, (1 + self.general) / 2)
        self.pool += new
        self._save()

    def _attacked(self, number: int, rng: random.Random) -> tuple[list[_Found], int, int]:
        """The attacks by what they did, worst first; how many were asked; abstentions."""
        if self.settings.mode != "adaptive":
            return [], 0, 0
        found, abstained = attacked(self.model, self.trials, self.judge, self.settings, rng)
        if abstained == self.settings.candidates * self.settings.samples:
            raise TrainingError(
                f"the judge {self.judge.name} abstains on every reply",
                hint="calibrate it first, or take another",
            )
        return sorted(found, key=lambda one: one.score), self.settings.candidates, abstained

    def _new_pairs(self, found: Sequence[_Found], rng: random.Random) -> list[Preference]:
        """At most `kept` pairs of this round."""
        settings = self.settings
        if settings.mode == "plain":
            return rng.sample(self.plain, min(settings.kept, len(self.plain)))
        every = (one.preference(settings.replies) for one in found)
        if settings.mode == "static":
            every = (self._static(at, rng) for at in range(settings.candidates))
        fit = (one for one in every if one is not None and self._fits(one))
        return [one for one, _ in zip(fit, range(settings.kept), strict=False)]

    def _static(self, at: int, rng: random.Random) -> Preference | None:
        """An author's pair under an attack without open turns; the model is not asked."""
        one = self.trials[at % len(self.trials)]
        drawn = attacks.draw("train", rng, rng.randint(1, self.settings.depth))
        asked = attacks.attack(drawn, one.target, rng)
        if one.preference is None or asked.open_turns:
            return None
        return replace(one.preference, asked=asked)

    def _fits(self, one: Preference) -> bool:
        return pair(self.model, one, self.recipe.align.most_tokens) is not None

    def _replayed(self, new: Sequence[Preference], rng: random.Random) -> list[Preference]:
        known = [one for one in (*self.plain, *self.pool) if one not in new]
        wanted = round(self.settings.replay * len(new))
        return rng.sample(known, min(wanted, len(known)))

    def _train(
        self, pairs: Sequence[Preference], general: Sequence[Example], before: Share
    ) -> tuple[Share, str]:
        """Train on the pairs; plain questions kept afterwards, and what was taken back."""
        folder = self._training(len(self.rounds))
        usual = self.recipe.align
        recipe = replace(
            self.recipe,
            objective=self.recipe.objective.of(self.settings.kind),
            align=replace(
                usual,
                held_out=0.0,
                general=self.general,
                divergence=usual.divergence * (1 - usual.general) / (1 - self.general),
                seed=usual.seed + len(self.rounds),
            ),
        )
        old = weights_of(self.model)
        done = align(
            self.model, pairs, recipe, general, Run(folder, self.guards, self.run.progress)
        )
        after = self._keep_rate()
        why = self._lost(before, after)
        if not why:
            return after, done.stopped
        put_weights(self.model, old)
        return before, done.stopped or why

    def _lost(self, before: Share, after: Share) -> str:
        """What plain questions say against a round; empty for nothing. A judge that grew silent
        does not say that values are kept."""
        if self.settings.plain_loss >= 1:
            return ""
        first = self.rounds[0].plain_before if self.rounds else before
        if 2 * after.of < first.of:
            return f"the judge scores {after.of} plain replies, where it scored {first.of}"
        if before.rate - after.rate > self.settings.plain_loss:
            return f"plain questions kept fell from {before.rate:.0%} to {after.rate:.0%}"
        return ""

    def _keep_rate(self) -> Share:
        """Of the plain questions that every round is held against."""
        count = min(self.settings.plain_asked, len(self.trials))
        some = [self.trials[at * len(self.trials) // count] for at in range(count)]
        return keep_rate(self.model, some, self.judge, self.settings.reply_tokens)

    def resume(self) -> None:
        """Go on after the last whole round of a run that was cut off."""
        known = checkpoint.read(self.run.folder, self.identity)
        if known is None:
            return
        put_weights(self.model, known["weights"])
        self.rounds = [_round(one) for one in known["rounds"]]
        self.pool = [_preference(one) for one in known["pool"]]
        self.general, self.held = known["general"], known["held"]
        self._clear()

    def _training(self, number: int) -> Path | None:
        """Where the checkpoints of a round's training go: another round's are never taken for
        them."""
        return None if self.run.folder is None else self.run.folder / f"training-{number}"

    def _clear(self) -> None:
        """Take away what the last whole round left of its training."""
        folder = self._training(len(self.rounds) - 1)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _save(self) -> None:
        if self.run.folder is None:
            return
        content = {
            "weights": weights_of(self.model),
            "rounds": [asdict(one) for one in self.rounds],
            "pool": [asdict(one) for one in self.pool],
            "general": self.general,
            "held": self.held,
        }
        checkpoint.write(self.run.folder, self.identity, content)
        self._clear()


def attacked(
    model: HFModel, some: Sequence[Trial], judge: Judge, settings: HardenSettings,
    rng: random.Random,
) -> tuple[list[_Found], int]:  # fmt: skip
    """Attacks on the trials in turn, each with the model's worst and best reply; abstentions.

    Attacks whose replies all have no score are left out; a calibrated judge's chance counts as one
    in its band too, where its verdict is an abstention.
    """
    order = [some[at % len(some)] for at in range(settings.candidates)]
    drawn = [attacks.draw("train", rng, rng.randint(1, settings.depth)) for _ in order]
    made = [attacks.attack(which, one.target, rng) for which, one in zip(drawn, order, strict=True)]
    sampling = Sampling(settings.reply_tokens, settings.temperature, seed=rng.getrandbits(62))
    asked = [one for one in made for _ in range(settings.samples)]
    replies = play(model, asked, sampling)
    said = [
        Said(order[at // settings.samples].value, one.filled([each.text for each in reply]),
             reply[-1].text)
        for at, (one, reply) in enumerate(zip(asked, replies, strict=True))
    ]  # fmt: skip
    scores, abstained = _scored(judge, said)
    found = []
    for at, (which, one) in enumerate(zip(drawn, order, strict=True)):
        places = range(at * settings.samples, (at + 1) * settings.samples)
        known = [(score, said[place]) for place in places if (score := scores[place]) is not None]
        if known:
            found.append(_worst_and_best(one, which.id, known, settings))
    return found, abstained


def _scored(judge: Judge, said: Sequence[Said]) -> tuple[list[float | None], int]:
    """What ranks each reply, and of how many the judge gives no verdict."""
    found = judgements(judge, said)
    scores = [one.score if chance is None else chance for one, chance in found]
    return scores, sum(one.score is None for one, _ in found)


def _worst_and_best(
    trial: Trial, attack: str, known: Sequence[tuple[float, Said]], settings: HardenSettings
) -> _Found:
    low, worst = min(known, key=lambda one: one[0])
    high, best = max(known, key=lambda one: one[0])
    fit = high >= settings.own_above and best.asked == worst.asked
    return _Found(trial, attack, worst.asked, worst.reply, low, best.reply if fit else "")


def _round(known: dict[str, Any]) -> Round:
    shares = {name: Share(**known[name]) for name in ("plain_before", "plain_after")}
    families = tuple((name, count) for name, count in known["families"])
    return Round(**{**known, **shares, "families": families})


def _preference(known: dict[str, Any]) -> Preference:
    turns = tuple(Turn(**one) for one in known["asked"]["turns"])
    return Preference(**{**known, "asked": Conversation(turns)})
