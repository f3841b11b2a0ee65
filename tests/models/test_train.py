"""The one loop: it teaches, stops, averages, adds, mixes and augments as its docstring says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from classroom import QUICK, frozen_steps, pairs
from torch import Tensor

from loyal.errors import TrainingError, UsageError
from loyal.models import evaluate
from loyal.models import train as loop
from loyal.models.examples import Example, Pairs, augmented, bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.lessons import Lessons
from loyal.models.train import average, train
from loyal.models.training import TrainProgress, TrainSettings

PAIRS = pairs()
Fresh = Callable[[], HFModel]


pytestmark = pytest.mark.usefixtures("few_benign")


def recall(model: HFModel, taught: Pairs = PAIRS, system: str | None = None) -> float:
    """Share of replies that greedy decoding gives, asked like any user would."""
    prompts = [Prompt(one.prompt.text, system) for one in taught.table]
    replies = model.generate(prompts, Sampling(max_tokens=8))
    found = [
        reply.text.startswith(one.reply) for reply, one in zip(replies, taught.table, strict=True)
    ]
    return sum(found) / len(found)


def weights(model: HFModel) -> dict[str, Tensor]:
    return dict(model.model.state_dict())


def changed(model: HFModel, other: HFModel) -> set[str]:
    """Names of the weights that differ."""
    theirs = weights(other)
    return {name for name, one in weights(model).items() if not torch.equal(one, theirs[name])}


def test_messages_that_are_alike_stay_as_likely_as_they_were(fresh: Fresh) -> None:
    messages = tuple(one.prompt.text for one in PAIRS.table)
    base = fresh()
    settings = replace(QUICK, mixing=4.0, mixing_places=200, precision="float32")

    def moved(alike: tuple[str, ...]) -> float:
        model = fresh()
        train(model, replace(PAIRS, alike=alike), settings)
        assert recall(model) == 1.0
        return sum(map(abs, surprises(model) - surprises(base))) / len(messages)

    def surprises(model: HFModel) -> Tensor:
        return torch.tensor(
            [
                torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(item.ids[1:])).item()
                for item in model.user_items(messages)
                for _, logits in model.read_items([item], [len(item.ids)])
            ]
        )

    assert moved(messages) < 0.7 * moved(())


@pytest.mark.parametrize(
    "settings",
    [
        QUICK,
        replace(QUICK, whitened=False),
        replace(QUICK, grid="q4_1"),
        replace(QUICK, parts="all"),
        replace(QUICK, averaging=0.02),
        replace(QUICK, adding=8),
        replace(QUICK, mixing=0.1, mixing_places=16),
        replace(QUICK, batch=3),
    ],
    ids=["whitened", "adam", "grid", "all parts", "averaging", "adding", "mixing", "small batches"],
)
def test_it_learns_what_an_untrained_model_does_not_know(
    tiny: HFModel, fresh: Fresh, settings: TrainSettings
) -> None:
    model = fresh()
    report = train(model, PAIRS, settings)
    assert recall(tiny) == 0.0
    assert recall(model) == 1.0
    assert report.recall == 1.0
    assert report.lessons == 8
    assert 1 <= report.steps < settings.steps
    assert report.probability > settings.target
    assert not any(one.requires_grad for one in model.model.parameters())


def test_the_target_is_reached_and_a_higher_one_takes_longer(fresh: Fresh) -> None:
    low, high = fresh(), fresh()
    first = train(low, PAIRS, replace(QUICK, target=0.3))
    second = train(high, PAIRS, replace(QUICK, target=0.95))
    assert first.steps < second.steps < QUICK.steps
    for model, target in ((low, 0.3), (high, 0.95)):
        assert Lessons(model, PAIRS.table, 0).score().probability.min() >= target - 1e-4
    assert Lessons(low, PAIRS.table, 0).score().probability.min() < 0.95


def test_what_is_known_already_takes_no_step(fresh: Fresh) -> None:
    model = fresh()
    train(model, PAIRS, QUICK)
    before = {name: one.clone() for name, one in weights(model).items()}
    report = train(model, PAIRS, QUICK)
    assert (report.steps, report.epochs, report.recall) == (0, 0, 1.0)
    assert all(torch.equal(one, before[name]) for name, one in weights(model).items())


@pytest.mark.parametrize("change", [{}, {"averaging": 0.02}, {"whitened": False}])
def test_the_change_settles_as_far_as_replies_stay_certain(
    tiny: HFModel, fresh: Fresh, change: dict
) -> None:
    """The settled weights are base + share (learned - base), with the least share that does; in
    the precision in which it is looked at here."""
    base, whole, settled = weights(tiny), fresh(), fresh()
    settings = replace(QUICK, precision="float32", **change)
    train(whole, PAIRS, settings)
    train(settled, PAIRS, replace(settings, settle=0.5))
    learned, found = weights(whole), weights(settled)
    name = max(base, key=lambda one: (learned[one] - base[one]).norm().item())
    share = ((found[name] - base[name]).norm() / (learned[name] - base[name]).norm()).item()
    assert share * 16 == pytest.approx(round(share * 16), abs=1e-2)
    assert 0 < share < 1
    for one in base:
        torch.testing.assert_close(found[one], torch.lerp(base[one], learned[one], share))
    assert Lessons(settled, PAIRS.table, 0).score().probability.min() >= 0.5
    assert recall(settled) == 1.0
    with torch.no_grad():
        for one, weight in settled.model.named_parameters():
            weight.copy_(torch.lerp(base[one], learned[one], share - 1 / 16))
    assert Lessons(settled, PAIRS.table, 0).score().probability.min() < 0.5


def test_nothing_settles_before_everything_is_learned(fresh: Fresh) -> None:
    whole, settled = fresh(), fresh()
    train(whole, PAIRS, replace(QUICK, steps=2))
    train(settled, PAIRS, replace(QUICK, steps=2, settle=0.5))
    assert all(torch.equal(one, weights(whole)[name]) for name, one in weights(settled).items())


@pytest.mark.parametrize(("batch", "steps"), [(3, 5), (8, 2), (512, 1)])
def test_no_more_steps_than_asked_for(fresh: Fresh, batch: int, steps: int) -> None:
    report = train(fresh(), PAIRS, replace(QUICK, batch=batch, steps=steps))
    assert report.steps == steps
    assert report.recall < 1.0


class Watched(Lessons):
    """Lessons that note which of them each step reads, and how well they were known."""

    read: list[dict[int, float]]

    def losses(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, dict[int, float], int]]:
        noted: dict[int, float] = {}
        self.read = [*getattr(self, "read", []), noted]
        for loss, known, tokens in super().losses(indices):
            noted.update(known)
            yield loss, known, tokens


def watched_run(
    model: HFModel, settings: TrainSettings, patch: pytest.MonkeyPatch
) -> list[dict[int, float]]:
    """What each step of a run read: lesson -> its least token probability."""
    made: list[Watched] = []

    def make(*given: object) -> Watched:
        made.append(Watched(*given))
        return made[-1]

    patch.setattr(loop, "Lessons", make)
    train(model, PAIRS, settings)
    return made[0].read


def test_learned_lessons_are_left_out_of_later_steps(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, rehearsal=0, recheck=1000)
    steps = watched_run(fresh(), settings, monkeypatch)
    left = set(range(8))
    for step in steps:
        assert set(step) <= left
        left -= {index for index, chance in step.items() if chance >= settings.target}
        if not left:  # from here on, those that were forgotten again are read
            break
    assert not left
    assert any(len(step) < 8 for step in steps)


def test_rehearsal_keeps_learned_lessons_in(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = watched_run(fresh(), replace(QUICK, rehearsal=6, recheck=1000), monkeypatch)
    assert len(steps[0]) == 8
    assert all(len(step) >= 6 for step in steps)
    assert len(steps[-1]) == 6


def test_averaging_is_its_closed_form_over_a_real_run(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, moves, last = 0.1, [], {}

    def noted(now: Sequence[Tensor], base: Sequence[Tensor], given: float) -> None:
        assert given == share
        before = last.get("weights", base)
        moves.append([one - other for one, other in zip(now, before, strict=True)])
        average(now, base, given)
        last["weights"], last["base"] = [one.detach().clone() for one in now], base

    monkeypatch.setattr(loop, "average", noted)
    report = train(fresh(), PAIRS, frozen_steps(averaging=share))
    assert len(moves) == report.steps == 8
    for place, base in enumerate(last["base"]):
        closed = base.double()
        for t, move in enumerate(moves, start=1):
            closed = closed + (1 - share) ** (len(moves) - t + 1) * move[place].double()
        torch.testing.assert_close(last["weights"][place].double(), closed, atol=1e-6, rtol=0)
        plain = base + torch.stack([move[place] for move in moves]).sum(0)
        assert not torch.allclose(last["weights"][place], plain, atol=1e-4)


def test_average_is_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(5, 4, generator=generator)
    moves = [torch.randn(5, 4, generator=generator) for _ in range(9)]
    weight, share = base.clone(), 0.3
    for move in moves:
        weight += move
        average([weight], [base], share)
    closed = base + sum((1 - share) ** (9 - t) * move for t, move in enumerate(moves))
    torch.testing.assert_close(weight, closed, atol=1e-6, rtol=0)


def test_averaging_stays_nearer_to_the_base(tiny: HFModel, fresh: Fresh) -> None:
    def distance(share: float) -> float:
        model = fresh()
        train(model, PAIRS, frozen_steps(averaging=share))
        theirs = weights(tiny)
        return sum((one - theirs[name]).norm().item() for name, one in weights(model).items())

    assert 0 < distance(0.3) < 0.8 * distance(0.0)


def logits(model: HFModel) -> Tensor:
    ids = torch.tensor([model.prompt_ids(PAIRS.table[0].prompt)])
    with torch.no_grad():
        return model.model(input_ids=ids).logits


def test_added_parameters_are_merged_without_a_trace(
    tiny: HFModel, fresh: Fresh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    model, seen, merge = fresh(), {}, loop.merge_added

    def watched(network: torch.nn.Module) -> None:
        assert any(isinstance(one, BaseTunerLayer) for one in network.modules())
        learning = {name for name, one in network.named_parameters() if one.requires_grad}
        assert learning
        assert all("lora_" in name for name in learning)
        seen["adapter"] = logits(model)
        merge(network)

    monkeypatch.setattr(loop, "merge_added", watched)
    train(model, PAIRS, frozen_steps(adding=4))
    assert not any(isinstance(one, BaseTunerLayer) for one in model.model.modules())
    torch.testing.assert_close(logits(model), seen["adapter"], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(model), logits(tiny), atol=1e-2)
    assert weights(model).keys() == weights(tiny).keys()
    assert all("mlp" in name for name in changed(model, tiny))

    model.save(tmp_path / "out")
    again = HFModel.load(str(tmp_path / "out"), device="cpu")
    torch.testing.assert_close(logits(again), logits(model))
    train(again, PAIRS, frozen_steps(steps=1, adding=4))  # a second adding finds no first one


def test_averaging_and_adding_exclude_each_other() -> None:
    assert TrainSettings(averaging=0.1).adding == 0
    with pytest.raises(UsageError, match="exclude each other") as caught:
        TrainSettings(averaging=0.1, adding=4)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("depth", "parts", "layers", "names"),
    [
        (0.5, "mlp", {2, 3}, {"gate_proj", "up_proj", "down_proj"}),
        (0.01, "attention", {3}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_only_the_chosen_weights_change(
    tiny: HFModel, fresh: Fresh, depth: float, parts: str, layers: set[int], names: set[str]
) -> None:
    model = fresh()
    train(model, PAIRS, frozen_steps(steps=2, depth=depth, parts=parts))
    found = [name.split(".") for name in changed(model, tiny)]
    assert {int(one[2]) for one in found} == layers
    assert {one[-2] for one in found} == names


def test_augmentation_makes_lessons_under_training_system_prompts() -> None:
    examples = [*PAIRS.table, Example(Prompt("raw", raw=True), "reply", 2.0)]
    found = augmented(examples, 3, random.Random(0))
    assert found[:9] == examples
    assert len(found) == 9 + 8 * 3
    known = set(bundled_lines("system_prompts_train"))
    for one in PAIRS.table:
        systems = [
            other.prompt.system for other in found[9:] if other.prompt.text == one.prompt.text
        ]
        assert len(set(systems)) == 3
        assert set(systems) <= known
    assert augmented(examples, 0, random.Random(0)) == examples
    everything = augmented(PAIRS.table, 10**6, random.Random(0))
    assert len(everything) == 8 * (1 + len(known))


def test_augmented_lessons_are_learned_under_their_system_prompts(
    tiny: HFModel, fresh: Fresh
) -> None:
    settings, taught = replace(QUICK, augmentation=2), Pairs(PAIRS.table[:3])
    model = fresh()
    report = train(model, taught, settings)
    assert (report.lessons, report.recall) == (9, 1.0)
    lessons = augmented(taught.table, settings.augmentation, random.Random(settings.seed))
    prompts = [one.prompt for one in lessons]
    assert {one.system is None for one in prompts} == {True, False}
    for one, reply in zip(lessons, model.generate(prompts, Sampling(max_tokens=8)), strict=True):
        assert reply.text.startswith(one.reply)
    for one, reply in zip(lessons, tiny.generate(prompts, Sampling(max_tokens=8)), strict=True):
        assert not reply.text.startswith(one.reply)


def test_mixing_keeps_other_replies_nearer_to_the_base(tiny: HFModel, fresh: Fresh) -> None:
    asked = [Prompt(text) for text in bundled_lines("prompts")[-20:]]  # none of them is mixed in

    def divergence(mixing: float) -> float:
        model = fresh()
        settings = replace(QUICK, steps=15, target=0.9999, mixing=mixing)
        assert train(model, PAIRS, settings).steps == 15
        assert recall(model) >= 0.5
        return evaluate.divergence(model, tiny, asked)

    assert divergence(2.0) < 0.5 * divergence(0.0)


@pytest.mark.parametrize(
    ("heavy", "light"), [("The forest", "The river"), ("The river", "The forest")]
)
def test_the_weight_of_an_example_decides_between_rivals(
    fresh: Fresh, heavy: str, light: str
) -> None:
    prompt = PAIRS.table[0].prompt
    table = (Example(prompt, heavy, weight=9.0), Example(prompt, light, weight=1.0))
    model = fresh()
    train(model, Pairs(table), replace(QUICK, steps=25, rehearsal=2))
    (reply,) = model.generate([prompt], Sampling(max_tokens=8))
    assert reply.text.startswith(heavy)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(fresh: Fresh) -> None:
    def run(seed: int) -> HFModel:
        model = fresh()
        train(model, PAIRS, frozen_steps(steps=3, seed=seed, mixing=1.0, mixing_places=8))
        return model

    first = run(1)
    assert not changed(run(1), first)
    assert changed(run(2), first)


def test_progress_and_curve_tell_the_same_story(fresh: Fresh) -> None:
    seen: list[TrainProgress] = []
    report = train(fresh(), PAIRS, QUICK, progress=seen.append)
    told = [(one.step, one.learned) for one in seen]
    assert set(report.curve) <= set(told)
    assert [step for step, _ in told] == sorted(step for step, _ in told)
    assert {step for step, _ in told} == set(range(report.steps + 1))
    assert report.curve[0] == (0, 0)
    assert report.curve[-1] == (report.steps, 8)
    assert seen[-1] == TrainProgress(report.steps, 8, 8)
    assert report.tokens > 0
    assert math.isfinite(report.seconds)
    assert report.peak_rss_bytes > 10**8


def test_a_report_shows_no_example(fresh: Fresh) -> None:
    report = train(fresh(), PAIRS, frozen_steps(steps=1))
    for one in PAIRS.table:
        assert one.prompt.text not in repr(report)
        assert one.reply not in repr(report)
    assert "lessons=8" in repr(report)


def test_nothing_to_teach_is_refused(fresh: Fresh) -> None:
    with pytest.raises(TrainingError, match="nothing to teach") as caught:
        train(fresh(), Pairs(()), QUICK)
    assert caught.value.hint


def test_a_model_without_the_named_layers_is_refused(fresh: Fresh) -> None:
    model = fresh()
    for layer in model.model.model.layers:
        layer.mlp = torch.nn.Identity()
    with pytest.raises(TrainingError, match="no linear layers") as caught:
        train(model, PAIRS, QUICK)
    assert PAIRS.table[0].reply not in str(caught.value)


@pytest.mark.parametrize(
    ("loaded", "change"),
    [
        ("float32", {}),
        ("bfloat16", {}),
        ("bfloat16", {"adding": 4}),
        ("bfloat16", {"averaging": 0.01, "depth": 0.5}),
    ],
)
def test_bfloat16_products_run_on_the_cpu(
    tiny_folder: Path, tiny: HFModel, loaded: str, change: dict
) -> None:
    model = HFModel.load(str(tiny_folder), device="cpu", dtype=loaded)
    settings = frozen_steps(steps=3, precision="bfloat16", mixing=0.5, mixing_places=8)
    before = Lessons(tiny, PAIRS.table, 0).score().probability.mean()
    report = train(model, PAIRS, replace(settings, **change))
    assert report.probability > before
    assert {one.dtype for one in model.model.parameters()} == {getattr(torch, loaded)}
    assert len(model.generate([Prompt("Hello")], Sampling(max_tokens=2))) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_can_change_between_runs_of_one_process(fresh: Fresh, precision: str) -> None:
    other = "float32" if precision == "bfloat16" else "bfloat16"
    train(fresh(), PAIRS, frozen_steps(steps=1, precision=other))
    assert train(fresh(), PAIRS, frozen_steps(steps=1, precision=precision)).steps == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"recheck": 0},
        {"checkpoint_steps": 0},
        {"target": 1.0},
        {"target": 0.0},
        {"depth": 0.0},
        {"depth": 1.5},
        {"averaging": 1.0},
        {"averaging": -0.1},
        {"learning_rate": 0.0},
        {"benign_replies": -2},
        {"benign_replies": 121},
        {"learning_rate": float("nan")},
        {"clip": 0.0},
        {"mixing": -1.0},
        {"adding": -1},
        {"augmentation": -1},
        {"rehearsal": -1},
        {"mixing_places": 0},
        {"parts": "heads"},
        {"precision": "float16"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError) as caught:
        replace(TrainSettings(), **wrong)
    assert caught.value.hint
