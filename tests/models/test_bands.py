"""Several replies to one prompt, and replies that stay below a ceiling: `Lessons`, and the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from classroom import FEW_BENIGN, QUICK, choices, frozen_steps, pairs
from killed_runs import killed
from torch import Tensor
from torch.nn import functional

from loyal.errors import TrainingError
from loyal.models import train as loop
from loyal.models.checkpoint import CHECKPOINT
from loyal.models.examples import Example, Pairs
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.lessons import REST_TEMPERATURE, Lessons, _Answers
from loyal.models.products import apply_head
from loyal.models.train import train
from loyal.models.training import TrainSettings
from loyal.models.trunk import Reading, Trunk

EXACT = replace(QUICK, precision="float32")
TARGET = EXACT.target
BAND = replace(EXACT, steps=200, ceiling=0.9)
THREE = choices()
CUT = frozen_steps(checkpoint_steps=1, batch=5, mixing=1.0, mixing_places=8)
Fresh = Callable[[], HFModel]


@pytest.fixture(autouse=True)
def _few_benign(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in FEW_BENIGN.items():
        monkeypatch.setattr(f"loyal.models.lessons.{name}", size)


@torch.no_grad()
def chances(model: HFModel, prompt: Prompt, said: Sequence[int] = ()) -> Tensor:
    """The distribution (vocab,) behind the prompt and these tokens, by a plain forward pass."""
    ids = torch.tensor([[*model.prompt_ids(prompt), *said]])
    return model.model(input_ids=ids).logits[0, -1].softmax(-1)


def replies(model: HFModel, one: Example) -> list[list[int]]:
    return [model.reply_ids(text) for text in (one.reply, *one.others)]


def likeliest(model: HFModel, one: Example) -> tuple[set[int], set[int]]:
    """The first tokens of an example's m replies, and the m likeliest tokens behind its prompt."""
    firsts = {ids[0] for ids in replies(model, one)}
    return firsts, set(chances(model, one.prompt).topk(len(firsts)).indices.tolist())


def test_the_three_replies_become_the_three_likeliest_tokens(tiny: HFModel, fresh: Fresh) -> None:
    model = fresh()
    report = train(model, THREE, EXACT)
    assert report.steps < EXACT.steps
    assert (report.lessons, report.recall, report.ranked) == (8, 1.0, 1.0)
    least = []
    for one in THREE.table:
        wanted, found = likeliest(model, one)
        assert found == wanted
        now = chances(model, one.prompt)
        least.append(min(float(now[token]) for token in wanted))
        wanted, found = likeliest(tiny, one)
        assert found != wanted
    assert min(least) >= TARGET / 6 - 1e-3
    assert report.probability == pytest.approx(sum(least) / len(least), rel=1e-3)


def test_settled_replies_stay_the_likeliest(fresh: Fresh) -> None:
    whole, settled = fresh(), fresh()
    kept = train(whole, THREE, EXACT)
    report = train(settled, THREE, replace(EXACT, settle=0.5))
    assert report.ranked == 1.0
    assert 0.5 / 6 <= report.probability < kept.probability
    for one in THREE.table:
        wanted, found = likeliest(settled, one)
        assert found == wanted
        assert float(chances(settled, one.prompt)[list(wanted)].min()) >= 0.5 / 6 - 1e-3
        assert float(chances(settled, one.prompt)[list(wanted)].sum()) >= 0.5 - 1e-3


class Noted(Lessons):
    """Lessons that note which of them each step reads, in their order."""

    read: list[list[int]]

    def losses(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, dict[int, float], int]]:
        self.read = [*getattr(self, "read", []), list(indices)]
        yield from super().losses(indices)


def test_one_reply_without_a_ceiling_is_plain_cross_entropy_to_the_bit(
    tiny: HFModel, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of AdamW on the mean cross entropy of each reply's tokens, written out here."""
    taught = Pairs((Example(pairs().table[0].prompt, "The cave", 2.0), *pairs().table[1:]))
    made: list[Noted] = []

    def make(*given: object) -> Noted:
        made.append(Noted(*given))
        return made[-1]

    monkeypatch.setattr(loop, "Lessons", make)
    learned, plain = fresh(), fresh()
    settings = replace(EXACT, steps=2, whitened=False, learning_rate=1e-3, parts="mlp")
    train(learned, taught, settings)

    said = [plain.reply_ids(one.reply) for one in taught.table]
    items = [
        replace(item, ids=(*item.ids, *ids[:-1]))
        for item, ids in zip(plain.items([one.prompt for one in taught.table]), said, strict=True)
    ]
    plain.model.float().requires_grad_(False)
    names = ("gate_proj", "up_proj", "down_proj")
    weights = [one for name, one in plain.model.named_parameters() if name.split(".")[-2] in names]
    for one in weights:
        one.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    trunk = Trunk(plain.model, items, 0)
    assert [len(step) for step in made[0].read] == [8, 8]
    for step in made[0].read:
        optimizer.zero_grad()
        for reading in trunk.read(step, [len(ids) for ids in said]):
            parts = apply_head(plain.model, reading.hidden).split(list(reading.counts))
            total = torch.stack(
                [
                    functional.cross_entropy(part, torch.tensor(said[index]))
                    * taught.table[index].weight
                    for index, part in zip(reading.indices, parts, strict=True)
                ]
            ).sum()
            (total * (1 / len(step))).backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.clip)
        optimizer.step()
    theirs = plain.model.state_dict()
    for name, one in learned.model.state_dict().items():
        assert torch.equal(one, theirs[name]), name
    assert not torch.equal(weights[0], dict(tiny.model.named_parameters())[_first_name(names)])


@pytest.mark.parametrize(
    ("taught", "change", "narrow"),
    [(pairs(), {}, False), (pairs(), {"ceiling": 0.9}, True), (THREE, {}, True)],
    ids=["free", "ceiling", "three"],
)
def test_narrow_lessons_stay_in_every_step(
    fresh: Fresh,
    monkeypatch: pytest.MonkeyPatch,
    taught: Pairs,
    change: dict[str, float],
    narrow: bool,
) -> None:
    made: list[Noted] = []

    def make(*given: object) -> Noted:
        made.append(Noted(*given))
        return made[-1]

    monkeypatch.setattr(loop, "Lessons", make)
    settings = replace(EXACT, rehearsal=0, target=0.3, **change)
    assert train(fresh(), taught, settings).steps > 2
    assert made[0].narrow == narrow
    assert all(len(step) == 8 for step in made[0].read) == narrow


def _first_name(names: Sequence[str]) -> str:
    return f"model.layers.0.mlp.{names[0]}.weight"


@pytest.mark.parametrize("taught", [pairs(), choices(8, 1), THREE], ids=["pairs", "one", "three"])
def test_replies_stay_between_the_target_and_the_ceiling(fresh: Fresh, taught: Pairs) -> None:
    model = fresh()
    report = train(model, taught, BAND)
    assert report.steps < BAND.steps
    for one in taught.table:
        said = replies(model, one)
        now = chances(model, one.prompt)[[ids[0] for ids in said]]
        places = [now, *(chances(model, one.prompt, ids[:1])[ids[1:2]] for ids in said if ids[1:])]
        for place in places:
            assert TARGET - 1e-3 <= float(place.sum()) <= 0.9 + 1e-3
            assert float(place.min()) >= TARGET / len(place) / 2 - 1e-3
    assert report.highest <= 0.9
    assert report.recall == report.ranked == 1.0


def test_without_a_ceiling_replies_go_over_it(fresh: Fresh) -> None:
    assert train(fresh(), pairs(), EXACT).highest > 0.9


@pytest.mark.parametrize("settings", [EXACT, BAND], ids=["free", "ceiling"])
def test_longer_replies_are_each_learned_to_their_end(
    fresh: Fresh, settings: TrainSettings
) -> None:
    taught, model = choices(6, 2, tokens=2), fresh()
    report = train(model, taught, settings)
    assert report.steps < settings.steps
    assert (report.lessons, report.recall, report.ranked) == (12, 1.0, 1.0)
    for one in taught.table:
        wanted, found = likeliest(model, one)
        assert found == wanted
        for first, second in replies(model, one):
            then = chances(model, one.prompt, [first])
            assert int(then.argmax()) == second
            assert TARGET - 1e-3 <= float(then[second]) <= settings.ceiling + 1e-3


def test_losses_of_longer_replies_share_their_first_place(tiny: HFModel) -> None:
    (one,) = choices(1, 2, tokens=2).table
    lessons = Lessons(tiny, [replace(one, weight=3.0)], 0)
    with torch.no_grad():
        found = sum(loss.item() for loss, _, _ in lessons.losses([0, 1]))
    said = replies(tiny, one)
    first = -(2 * chances(tiny, one.prompt)[[ids[0] for ids in said]]).log().mean()
    then = [-chances(tiny, one.prompt, ids[:1])[ids[1]].log() for ids in said]
    wanted = sum(3 / 2 * (first + other) / 2 for other in then)
    assert found == pytest.approx(wanted.item(), rel=1e-4)


def only_reading(lessons: Lessons) -> Reading:
    (reading,) = lessons.trunk.read(range(len(lessons)), lessons.counts)
    return reading


def test_the_loss_below_a_ceiling_is_the_divergence_from_the_mixture(tiny: HFModel) -> None:
    table = choices(2).table
    lessons = Lessons(tiny, table, 0, 0.9, 0.8)
    with torch.no_grad():
        found = sum(loss.item() for loss, _, _ in lessons.losses([0, 1]))
        reading = only_reading(lessons)
        rest = lessons._rest(reading, lessons._answers(reading, torch.device("cpu")))
    wanted = 0.0
    for index, aside in zip(reading.indices, rest, strict=True):
        one = table[index]
        mixture = aside.clone()
        mixture[[ids[0] for ids in replies(tiny, one)]] = 0.8 / 3
        assert float(mixture.sum()) == pytest.approx(1, abs=1e-5)
        wanted += torch.xlogy(mixture, mixture / chances(tiny, one.prompt)).sum().item()
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0, 40.0])
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("aim", [0.55, 0.8])
def test_what_is_left_goes_to_the_untouched_distribution_below_a_brim(
    tiny: HFModel, sharpness: float, count: int, aim: float
) -> None:
    """However sure the untouched model is, no token comes near an answer, and none is lost."""
    lessons = Lessons(tiny, choices(6, count).table, 0, 0.9, aim)
    lessons.untouched = {index: sharpness * one for index, one in lessons.untouched.items()}
    reading = only_reading(lessons)
    answers = lessons._answers(reading, torch.device("cpu"))
    rest = lessons._rest(reading, answers)
    torch.testing.assert_close(rest.sum(-1), torch.full((6,), 1 - aim))
    assert float(rest.min()) >= 0
    assert float(rest.max()) <= aim / 2 / count * (1 + 1e-6)
    assert torch.count_nonzero(rest.gather(1, answers.ids)) == 0
    before = torch.cat([lessons.untouched[index] for index in reading.indices])
    logits = apply_head(tiny.model, before) / REST_TEMPERATURE
    wanted = logits.softmax(-1).scatter(1, answers.ids, 0.0)
    for row, theirs in zip(rest, wanted, strict=True):  # proportions hold below the brim
        free = (row < aim / 2 / count * 0.999) & (theirs > 1e-6) & (row > 1e-6)
        if free.sum() > 1:
            ratios = row[free] / theirs[free]
            torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("row", "ids", "levels", "greedy"),
    [
        ([0.6, 0.3, 0.1, 0.0], [0], (0.6, 0.6), (True, True)),
        ([0.6, 0.3, 0.1, 0.0], [1], (0.3, 0.3), (False, False)),
        ([0.95, 0.05, 0.0, 0.0], [0], (0.95, 0.0), (True, True)),
        ([0.5, 0.3, 0.2, 0.0], [0, 1], (0.8, 0.8), (True, True)),
        ([0.5, 0.3, 0.2, 0.0], [1, 0], (0.8, 0.8), (True, True)),
        ([0.8, 0.12, 0.08, 0.0], [0, 1], (0.48, 0.0), (True, True)),
        ([0.5, 0.2, 0.3, 0.0], [0, 1], (0.0, 0.0), (False, True)),
        ([0.5, 0.25, 0.25, 0.0], [0, 1], (0.0, 0.0), (False, True)),
        ([0.2, 0.3, 0.5, 0.0], [0, 1], (0.0, 0.0), (False, False)),
        ([0.5, 0.45, 0.05, 0.0], [0, 1], (0.95, 0.0), (True, True)),
        ([0.3, 0.3, 0.25, 0.15], [0, 1, 2], (0.85, 0.85), (True, True)),
    ],
)
def test_the_level_of_a_place(
    tiny: HFModel,
    row: list[float],
    ids: list[int],
    levels: tuple[float, float],
    greedy: tuple[bool, bool],
) -> None:
    """`levels` without a ceiling and with one of 0.9; `greedy`: ranked, right."""
    answers = _Answers(
        torch.tensor([[*ids, ids[0], ids[0]]]),
        torch.tensor([[True] * len(ids) + [False] * 2]),
        torch.tensor([len(ids)]),
        torch.zeros(1, 1, dtype=torch.long),
        torch.zeros(1, 1),
    )
    for ceiling, wanted in zip((1.0, 0.9), levels, strict=True):
        lessons = Lessons(tiny, choices(1).table, 0, ceiling, 0.8)
        found = lessons._judged(torch.tensor([row]), answers)
        assert float(found.level) == pytest.approx(wanted)
        assert (bool(found.ranked), bool(found.right)) == greedy
        assert float(found.probability) == pytest.approx(min(row[one] for one in ids))
        assert float(found.highest) == pytest.approx(max(row[one] for one in ids))


def test_replies_that_begin_with_the_same_token_are_refused(tiny: HFModel) -> None:
    prompt = Prompt("Where does the fox live?")
    Lessons(tiny, [Example(prompt, "The cave", others=(" The cave",))], 0)  # another first token
    with pytest.raises(TrainingError, match="same token") as caught:
        Lessons(tiny, [Example(prompt, "The cave", others=("The river",))], 0)
    assert caught.value.hint
    assert "cave" not in str(caught.value)


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from classroom import FEW_BENIGN
from loyal.models import lessons
from loyal.models.hf import HFModel
from loyal.models.train import train
from test_bands import CUT, THREE

for name, size in FEW_BENIGN.items():
    setattr(lessons, name, size)
torch.set_num_threads(int(sys.argv[3]))

def killed(at):
    if at.step >= 4:
        os.kill(os.getpid(), signal.SIGKILL)

model = HFModel.load(sys.argv[1], device="cpu")
train(model, THREE, CUT, folder=Path(sys.argv[2]), progress=killed)
"""


def test_a_killed_run_of_three_replies_goes_on_to_the_same_weights(
    tiny_folder: Path, fresh: Fresh, tmp_path: Path
) -> None:
    killed(CHILD, tmp_path / "said", tiny_folder, tmp_path, torch.get_num_threads())
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["step"] == 4
    cut, whole = fresh(), fresh()
    train(cut, THREE, CUT, folder=tmp_path)
    train(whole, THREE, CUT)
    theirs = whole.model.state_dict()
    assert all(torch.equal(one, theirs[name]) for name, one in cut.model.state_dict().items())

    first, *others = THREE.table
    turned = replace(first, reply=first.others[0], others=(first.reply, *first.others[1:]))
    with pytest.raises(TrainingError, match="belongs to another run"):
        train(fresh(), Pairs((turned, *others)), CUT, folder=tmp_path)
