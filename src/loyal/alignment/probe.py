"""The embedded judge: a line through a model's hidden states that tells kept from broken.

Learned from the constitution's own pairs (`lessons`): logistic regression with a ridge on the
*differences* between the states of two replies to one conversation, so that what the prompt alone
says cancels (linear probes: Alain and Bengio, arXiv 1610.01644; differences within pairs: Burns et
al., arXiv 2212.03827). Layer, pooling and ridge are those that do best on *cases* left out. Unlike
Burns, labels are used: the constitution has them.

The cross-validated figures choose among settings too, so they flatter; `judge.calibrate` on
replies that a model wrote is the measure. Left out: files of probes (`probe_file`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from loyal.alignment import calibration as reading
from loyal.alignment.calibration import Calibration
from loyal.alignment.conversation import Conversation
from loyal.alignment.judgement import Judgement, Said, text_digest
from loyal.alignment.lessons import Lesson, lessons
from loyal.community import Constitution, Value
from loyal.errors import JudgeError, UsageError
from loyal.models.hf import HFModel
from loyal.models.hidden import reply_states, weights_digest
from loyal.models.language_model import Prompt
from loyal.statistics import Interval

Floats = npt.NDArray[np.float64]

POOLS = ("mean", "last")
"""Over the reply's tokens, in the order in which `reply_states` gives them."""
DEPTHS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Shares of a model's layers at which it is read: middle ones did best (docs/log.md)."""
RIDGES = (0.0001, 0.001, 0.01, 0.1, 1.0)
"""Penalties on the squared weights of states of unit spread, a lesson."""
FOLDS = 5


@dataclass(frozen=True)
class Reading:
    """Where in the model is read, and how strongly weights are held down."""

    layer: int
    """Decoder layer, from 0."""
    pool: str
    """One of POOLS."""
    ridge: float


@dataclass(frozen=True, eq=False, repr=False)
class Probe:
    """What was learned."""

    constitution: str
    """Hex digest of the constitution that it learned from."""
    model: str
    """Name of the model that it reads."""
    weights: str
    """Hex digest of that model's weights (`weights_digest`)."""
    reading: Reading
    direction: Floats  # (H,)
    middles: Mapping[str, Floats]
    """(H,) by value's id: the mean state of its lessons, where neither side is."""
    calibration: Calibration
    """Fitted on cases that were left out."""
    auc: float
    """On cases that were left out, as their prompts stand; flattering, as it chose settings."""
    interval: Interval
    """95 %, of the AUC."""
    lessons: int
    data: frozenset[str] = field(default_factory=frozenset)
    """Digests of the texts that it learned from (`text_digest`)."""

    def __repr__(self) -> str:
        return f"Probe({self.model}, layer {self.reading.layer}, {self.lessons} lessons)"

    def raw(self, states: Floats, value: str) -> Floats:
        """(n,) scores of states (n, H); UsageError for a value that was not learned."""
        if value not in self.middles:
            known = ", ".join(self.middles)
            raise UsageError(
                "the probe has not learned a value of that id", hint=f"it knows {known}"
            )
        scores: Floats = (states - self.middles[value]) @ self.direction
        return scores


def train(model: HFModel, constitution: Constitution, *, seed: int = 0) -> Probe:
    """Learn from a constitution's pairs with one model; UsageError for too few pairs."""
    taught = lessons(constitution, folds=FOLDS, seed=seed)
    layers = _layers(model)
    asked = [seen_as(one.value, one.asked) for one in taught]
    both = [one.keeps for one in taught] + [one.breaks for one in taught]
    states = reply_states(model, asked * 2, both, layers).numpy().astype(np.float64)
    kept, broken = states[: len(taught)], states[len(taught) :]  # (n, layers, pools, H)
    best: tuple[float, Reading, list[float]] | None = None
    for place, layer in enumerate(layers):
        for at, pool in enumerate(POOLS):
            for ridge in RIDGES:
                raw = _left_out(taught, kept[:, place, at], broken[:, place, at], ridge)
                found = reading.auc(raw, [True] * len(taught) + [False] * len(taught))
                if best is None or found > best[0] + 1e-9:
                    best = found, Reading(layer, pool, ridge), raw
    assert best is not None
    _, chosen, raw = best
    place, at = layers.index(chosen.layer), POOLS.index(chosen.pool)
    direction, middles = _fit(taught, kept[:, place, at], broken[:, place, at], chosen.ridge)
    labels = [True] * len(taught) + [False] * len(taught)
    plain = _plain(taught, raw)
    return Probe(
        constitution=constitution.digest.hex(),
        model=model.name,
        weights=weights_digest(model),
        reading=chosen,
        direction=direction,
        middles=middles,
        calibration=reading.fit(raw, labels),
        auc=reading.auc(*plain),
        interval=reading.auc_interval(*plain),
        lessons=len(taught),
        data=frozenset(text_digest(one) for one in both),
    )


def seen_as(value: Value, asked: Conversation) -> Prompt:
    """The conversation with the value said in its system message, so that states are about it.

    UsageError for a conversation that leaves turns to the model.
    """
    if asked.open_turns:
        raise UsageError(
            "a conversation to judge leaves turns to the model",
            hint="write out what it said there",
        )
    prompt = asked.prompt()
    system = f"The community holds: {value.statement}"
    if prompt.system:
        system = f"{system}\n\n{prompt.system}"
    return Prompt(prompt.text, system, history=prompt.history)


@dataclass(frozen=True, eq=False)
class ProbeJudge:
    """A probe with its model. Satisfies `Judge`; it never abstains (`judge.Calibrated` does)."""

    probe: Probe
    model: HFModel
    constitution: Constitution

    def __post_init__(self) -> None:
        if self.probe.constitution != self.constitution.digest.hex():
            raise JudgeError(
                "the probe learned from another constitution, or another version of this one",
                hint="run 'loyal judge train' for this one",
            )
        if self.probe.weights != weights_digest(self.model):
            raise JudgeError(
                f"the probe was made for the weights of {self.probe.model}, not for this model's",
                hint="load that model, or run 'loyal judge train' for this one",
            )

    @property
    def name(self) -> str:
        """The model, the layer and the constitution's version."""
        where = f"{self.probe.model}, layer {self.probe.reading.layer}"
        return f"probe({where}, {self.probe.constitution[:8]})"

    @property
    def made_of(self) -> frozenset[str]:
        """Digests of its weights and of the texts that it learned from."""
        return self.probe.data | {f"weights:{self.probe.weights}"}

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        """One judgement a reply; the score is calibrated on the constitution's own cases."""
        for value in {one.value.id: one.value for one in said}.values():
            if value not in self.constitution.values:
                raise JudgeError(
                    "a value is not one of the probe's constitution",
                    hint="take values from the constitution that it learned from",
                )
        if not said:
            return []
        at = POOLS.index(self.probe.reading.pool)
        asked = [seen_as(one.value, one.asked) for one in said]
        replies = [one.reply for one in said]
        states = reply_states(self.model, asked, replies, [self.probe.reading.layer])
        read = states[:, 0, at].numpy().astype(np.float64)
        return [self._said(one.value, read[index]) for index, one in enumerate(said)]

    def _said(self, value: Value, state: Floats) -> Judgement:
        raw = float(self.probe.raw(state[None], value.id)[0])
        chance = self.probe.calibration.probability(raw)
        side = "keep" if chance > 0.5 else "break"
        reason = f"what the model holds in mind is nearer to replies that {side} {value.id}"
        return Judgement(chance, 1 - abs(2 * chance - 1), reason)


def _layers(model: HFModel) -> list[int]:
    count = len(model.model.model.layers)
    return sorted({min(count - 1, round(share * count)) for share in DEPTHS})


def _left_out(taught: Sequence[Lesson], kept: Floats, broken: Floats, ridge: float) -> list[float]:
    """Scores of every reply by what the other folds taught: all that keep, then all that break."""
    good, bad = np.zeros(len(taught)), np.zeros(len(taught))
    for learned, rest in _splits(taught):
        some = [taught[index] for index in learned]
        direction, middles = _fit(some, kept[learned], broken[learned], ridge)
        plain = np.mean(list(middles.values()), axis=0)
        for index in rest:
            middle = middles.get(taught[index].value.id, plain)
            good[index] = (kept[index] - middle) @ direction
            bad[index] = (broken[index] - middle) @ direction
    return [*good.tolist(), *bad.tolist()]


def _splits(taught: Sequence[Lesson]) -> Iterator[tuple[list[int], list[int]]]:
    """Lessons to learn from and lessons left out, a fold of cases at a time."""
    for fold in sorted({one.fold for one in taught}):
        rest = [index for index, one in enumerate(taught) if one.fold == fold]
        yield [index for index, one in enumerate(taught) if one.fold != fold], rest


def _fit(
    taught: Sequence[Lesson], kept: Floats, broken: Floats, ridge: float
) -> tuple[Floats, dict[str, Floats]]:
    """The direction (H,), and a middle (H,) for each value that has lessons."""
    middle = (kept + broken) / 2  # (n, H)
    ids = [one.value.id for one in taught]
    middles = {
        id: middle[[place for place, one in enumerate(ids) if one == id]].mean(0)
        for id in dict.fromkeys(ids)
    }
    spread = np.concatenate([kept, broken]).std(0)  # (H,)
    spread = np.maximum(spread, 1e-3 * max(float(spread.max()), 1e-9))
    return _ridge_logistic((kept - broken) / spread, ridge) / spread, middles


def _ridge_logistic(gaps: Floats, ridge: float) -> Floats:
    """(H,): least mean log(1 + exp(-gap @ w)) + ridge / 2 |w|^2 for gaps (n, H), by Newton.

    No intercept: a pair has no side. The solution lies in the span of the gaps, so it is sought
    there, in as many unknowns as there are pairs at most.
    """
    _, sizes, basis = np.linalg.svd(gaps, full_matrices=False)
    basis = basis[sizes > 1e-10 * max(float(sizes.max(initial=0.0)), 1e-300)]
    points = gaps @ basis.T / np.sqrt(gaps.shape[1])  # (n, r); a unit gap a dimension has length 1
    weights = np.zeros(len(basis))

    def loss(at: Floats) -> float:
        return float(np.logaddexp(0, -points @ at).mean() + ridge / 2 * at @ at)

    for _ in range(100):
        wrong = 1 / (1 + np.exp(np.clip(points @ weights, -500, 500)))  # (n,)
        slope = ridge * weights - points.T @ wrong / len(points)
        bend = (points * (wrong * (1 - wrong))[:, None]).T @ points / len(points)
        move = np.linalg.solve(bend + ridge * np.eye(len(weights)), slope)
        share, before = 1.0, loss(weights)
        while share > 1e-6 and loss(weights - share * move) > before:
            share /= 2
        weights = weights - share * move
        if float(np.abs(move).max(initial=0.0)) * share < 1e-9:
            break
    found: Floats = weights @ basis / np.sqrt(gaps.shape[1])
    return found


def _plain(taught: Sequence[Lesson], raw: Sequence[float]) -> tuple[list[float], list[bool]]:
    """Scores and labels of the cases' own prompts alone: other lessons of one are no new case."""
    places = [index for index, one in enumerate(taught) if one.plain]
    some = [raw[index] for index in places] + [raw[index + len(taught)] for index in places]
    return some, [True] * len(places) + [False] * len(places)
