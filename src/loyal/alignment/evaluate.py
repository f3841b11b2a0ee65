"""What a model became: values kept under each family of attacks, pairs won, what it cost.

    exam = Exam(constitution, judge, ReportSettings())
    before = measure(base, exam)
    after = measure(model, exam, base)
    after.kept(split="held-out")          # a share with its interval

Every model of one exam is asked the same questions under the same attacks; open turns are its own.
The judge should share neither data nor weights with the one that trained. Abstentions count as
nothing, and are shown. Left out: the page (`loyal.app.align_page`) and judging itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from loyal.alignment import attacks
from loyal.alignment.asks import reported_requests
from loyal.alignment.calibration import Estimate, Known
from loyal.alignment.conversation import Conversation, play
from loyal.alignment.guards import REPORTED
from loyal.alignment.judge import Calibrated, judgements
from loyal.alignment.judgement import Judge, Said
from loyal.alignment.objectives import margins, pair
from loyal.alignment.preference import Preference
from loyal.alignment.refusals import refused
from loyal.alignment.settings import ReportSettings
from loyal.alignment.trials import Trial, plain_pairs, trials
from loyal.community import Constitution
from loyal.errors import UsageError
from loyal.models.evaluate import Choice, Utility, compare, multiple_choice
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Sampling
from loyal.statistics import Interval, clopper_pearson

PLAIN = "plain"
"""In place of a family's id: asked without an attack."""
MOST_TOKENS = 2048
"""A held-out pair that is longer is not measured."""


Question = tuple[Trial, str, str, Conversation]
"""A question with the attack's family and split, as it is asked."""


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    count: int
    of: int

    @property
    def rate(self) -> float:
        """The share; 0 of none is 0."""
        return self.count / max(1, self.of)

    @property
    def interval(self) -> Interval:
        """95 %, Clopper and Pearson; 0 to 1 where there is none."""
        return clopper_pearson(self.count, self.of) if self.of else Interval(0.0, 1.0)


@dataclass(frozen=True)
class Answer:
    """How one reply was judged. Holds no text."""

    value: str
    family: str
    """Id of the attack's family; "plain" for none."""
    split: str
    """Of the family; "plain" for none."""
    keeps: bool | None
    """None where the judge abstained."""
    chance: float | None = None
    """That the value is kept, by a calibrated judge, where it abstained too."""


@dataclass(frozen=True)
class Margin:
    """Of one held-out pair."""

    value: str
    nats: float
    """By how much the chosen reply is likelier than the rejected one, a token."""


@dataclass(frozen=True)
class Exam:
    """What every model is asked, and who judges."""

    constitution: Constitution
    judge: Judge
    settings: ReportSettings = field(default_factory=ReportSettings)
    preferences: tuple[Preference, ...] = ()
    """Held-out pairs; empty for the constitution's own held-out cases."""
    choices: tuple[Choice, ...] = ()
    """Questions of a multiple-choice task (`models.evaluate.read_choices`); empty for none."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise UsageError(
                f"no case of {self.constitution.name} is held out",
                hint="give its values more cases: a fifth of them is measured on",
            )

    @cached_property
    def questions(self) -> tuple[Trial, ...]:
        """The held-out cases, one a value in turn."""
        return tuple(trials(self.constitution, "held-out"))

    @cached_property
    def pairs(self) -> tuple[Preference, ...]:
        """The held-out pairs."""
        return self.preferences or tuple(plain_pairs(self.questions))

    def asked(self) -> list[Question]:
        """Each question with family, split and conversation; drawn from the seed alone."""
        known, settings = self.questions, self.settings
        plain = known[: settings.plain or None]
        found = [(one, PLAIN, PLAIN, Conversation.of(one.target.question)) for one in plain]
        at = 0
        for family in attacks.families():
            rng = random.Random(f"loyal/exam/{settings.seed}/{family.id}")
            for _ in range(settings.attacks):
                one = known[at % len(known)]
                at += 1
                made = attacks.attack(family, one.target, rng)
                found.append((one, family.id, family.split, made))
        return found


@dataclass(frozen=True)
class Measured:
    """One model's outcome."""

    model: str
    judge: str
    answers: tuple[Answer, ...]
    margins: tuple[Margin, ...]
    refused: Share
    """Of ordinary prompts."""
    utility: Utility | None = None
    """Against the base; None for the base itself."""
    known: Known | None = None
    """What the judge gives labeled replies; None for a judge without a calibration of them."""
    declined: Share = Share(0, 0)
    """Of bundled requests for harm."""
    over_declined: Share = Share(0, 0)
    """Of bundled requests that only sound like it."""
    choices: Share = Share(0, 0)
    """Multiple-choice questions answered right."""

    def kept(
        self, *, value: str | None = None, family: str | None = None, split: str | None = None
    ) -> Share:
        """Replies that keep their value, of those that were judged; None takes all."""
        some = [one for one in self.answers if _fits(one, value, family, split)]
        judged = [one for one in some if one.keeps is not None]
        return Share(sum(bool(one.keeps) for one in judged), len(judged))

    def share(self, split: str | None = None) -> Estimate | None:
        """How many replies keep their value, corrected for what the judge gets wrong: verdicts
        count its mistakes, and only where it is sure. None where it was not held to labels, or for
        fewer than two replies."""
        return None if self.known is None else self.known.share(self.chances(split))

    def chances(self, split: str | None = None) -> list[float]:
        """The calibrated chances of the replies that have one."""
        some = [one.chance for one in self.answers if _fits(one, None, None, split)]
        return [one for one in some if one is not None]

    @property
    def abstained(self) -> Share:
        """Replies on which the judge gave no score."""
        return Share(sum(one.keeps is None for one in self.answers), len(self.answers))

    def won(self, value: str | None = None) -> Share:
        """Held-out pairs whose chosen reply is likelier, token for token."""
        some = [one for one in self.margins if value in (None, one.value)]
        return Share(sum(one.nats > 0 for one in some), len(some))


@dataclass(frozen=True)
class Progress:
    """Where a measuring that was cut off goes on, and who is told of what it has since found."""

    known: Sequence[Answer] = ()
    """The first answers, as `keep` was given them last."""
    keep: Callable[[Sequence[Answer]], None] = lambda _answers: None
    """Given all answers so far, after each part of the questions."""


def measure(
    model: HFModel, exam: Exam, base: HFModel | None = None, progress: Progress | None = None
) -> Measured:
    """Ask a model the exam; with its base, compare how useful the two are."""
    settings, asked = exam.settings, reported_requests()
    declined, over = (
        _refused(model, some[: settings.requests], settings)
        for some in (asked.harmful, asked.harmless)
    )
    return Measured(
        model.name,
        exam.judge.name,
        tuple(_answers(model, exam, progress or Progress())),
        tuple(_margins(model, exam.pairs)),
        over_refusal(model, settings),
        None if base is None else compare(model, base, settings.tokens, REPORTED),
        exam.judge.calibration.known if isinstance(exam.judge, Calibrated) else None,
        declined,
        over,
        _chosen(model, exam.choices),
    )


def over_refusal(model: LanguageModel, settings: ReportSettings) -> Share:
    """Ordinary prompts, in which no value is at stake, that the model refuses."""
    return _refused(model, bundled_lines("prompts")[-min(REPORTED, settings.benign) :], settings)


def _refused(model: LanguageModel, texts: Sequence[str], settings: ReportSettings) -> Share:
    return Share(refused(model, texts, settings.reply_tokens), len(texts))


def _chosen(model: HFModel, some: Sequence[Choice]) -> Share:
    return (
        Share(round(multiple_choice(model, some) * len(some)), len(some)) if some else Share(0, 0)
    )


def keep_rate(
    model: LanguageModel, some: Sequence[Trial], judge: Judge, reply_tokens: int
) -> Share:
    """Of plain questions, those whose value the greedy reply keeps; abstentions are left out."""
    asked = [Conversation.of(one.target.question) for one in some]
    replies = play(model, asked, Sampling(max_tokens=reply_tokens))
    said = [
        Said(one.value, each, reply[-1].text)
        for one, each, reply in zip(some, asked, replies, strict=True)
    ]
    found = [one.keeps for one in judge.judge(said) if one.keeps is not None]
    return Share(sum(found), len(found))


def _answers(model: LanguageModel, exam: Exam, progress: Progress) -> list[Answer]:
    """One answer a question, part by part: parts are even, so that a judge sees no lone reply."""
    asked = exam.asked()
    parts = max(1, round(len(asked) / exam.settings.part))
    found = list(progress.known)
    for number in range(parts):
        start, end = (at * len(asked) // parts for at in (number, number + 1))
        if len(found) < end:
            found = [*found[:start], *_judged(model, exam, asked[start:end])]
            progress.keep(found)
    return found


def _judged(model: LanguageModel, exam: Exam, asked: Sequence[Question]) -> list[Answer]:
    sampling = Sampling(max_tokens=exam.settings.reply_tokens)
    replies = play(model, [one[3] for one in asked], sampling)
    said = [
        Said(trial.value, made.filled([one.text for one in reply]), reply[-1].text)
        for (trial, _, _, made), reply in zip(asked, replies, strict=True)
    ]
    found = judgements(exam.judge, said)
    return [
        Answer(trial.value.id, family, split, one.keeps, chance)
        for (trial, family, split, _), (one, chance) in zip(asked, found, strict=True)
    ]


def _margins(model: HFModel, preferences: Sequence[Preference]) -> list[Margin]:
    items = [(one, pair(model, one, MOST_TOKENS)) for one in preferences]
    short = [(one.value, item) for one, item in items if item is not None]
    found = margins(model, [item for _, item in short])
    return [Margin(value, nats) for (value, _), nats in zip(short, found, strict=True)]


def _fits(one: Answer, value: str | None, family: str | None, split: str | None) -> bool:
    asked = ((value, one.value), (family, one.family), (split, one.split))
    return all(wanted in (None, there) for wanted, there in asked)
