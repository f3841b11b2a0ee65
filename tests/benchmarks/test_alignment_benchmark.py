"""The benchmark of alignment on the tiny model: its clock, its judges, its rows, and going on.

Left out: what the default model reaches, which takes hours (`make bench-alignment`).
"""

from __future__ import annotations

import copy
import itertools
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from discretion import QUIET, SHORT, UNGUARDED, Reader, constitution, discreet

from loyal.alignment import Conversation, Judgement, Said, labeled
from loyal.alignment.align import Run, align
from loyal.alignment.asks import frames
from loyal.alignment.calibration import Calibration, Known, Moments
from loyal.alignment.judge import Calibrated
from loyal.alignment.labeled import Labeled
from loyal.alignment.trials import trials
from loyal.errors import UsageError
from loyal.models import tiny
from loyal.models.hf import HFModel

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import alignment  # noqa: E402
import alignment_cells  # noqa: E402
import alignment_judges  # noqa: E402
import alignment_kept  # noqa: E402
import alignment_plan  # noqa: E402
import alignment_table  # noqa: E402
import rows  # noqa: E402
import slashing  # noqa: E402
from alignment_cells import Pairs, Size  # noqa: E402
from resumable import Cell, Record  # noqa: E402

SMALL = Size(pairs=24, held_out=8, attacks=1, questions=6, benign=4, tokens=200, reply_tokens=12)
TOML = """
[align]
epochs = 10
batch = 8
learning_rate = 1e-2
rank = 4
divergence = 0.0
general = 0.0
precision = "float32"

[objective]
kind = "dpo"

[guards]
steps = 0

[harden]
reply_tokens = 12
depth = 1
plain_loss = 1.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model."""
    return tiny.build(tmp_path_factory.mktemp("models") / "tiny", 0)


@pytest.fixture(scope="module")
def base(folder: Path) -> HFModel:
    return HFModel.load(str(folder), device="cpu")


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows go elsewhere than the committed ones."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")


def by_id(name: str = "alignment-quick") -> dict[str, dict]:
    return {one["id"].removeprefix("align-"): one for one in rows.read(name)}


def fresh(base: HFModel) -> HFModel:
    return replace(base, model=copy.deepcopy(base.model))


def split() -> Pairs:
    every = discreet()
    return Pairs(tuple(every[4:]), tuple(every[:4]), 4)


def test_the_clock_is_read_where_the_held_out_pairs_are_won(base: HFModel) -> None:
    recipe = replace(UNGUARDED, align=replace(SHORT, epochs=6))
    model, other = fresh(base), fresh(base)
    found = alignment_cells.timed_training(model, split(), recipe)
    first = found["reached"]
    assert found["before"]["won"] == 0
    assert found["after"]["won"] == 4
    assert first == found["looks"][-1]
    assert first["win"] == 1.0
    assert all(one["win"] < alignment_cells.WIN for one in found["looks"][:-1])
    assert 0 < first["cpu"] <= found["cpu"]
    assert 0 < first["wall"] <= found["wall"]
    assert first["step"] % alignment_cells.LOOK == 0 or first["step"] == found["of"]
    align(other, split().train, replace(recipe, align=replace(recipe.align, held_out=0.0)))
    theirs = dict(other.model.named_parameters())  # looks change no weight
    assert all(torch.equal(one, theirs[name]) for name, one in model.model.named_parameters())


def test_what_is_never_won_is_no_time(base: HFModel) -> None:
    recipe = replace(UNGUARDED, align=replace(SHORT, epochs=1, learning_rate=1e-9))
    found = alignment_cells.timed_training(fresh(base), split(), recipe)
    assert found["reached"] is None
    row = timed([found])
    assert row.value is None
    assert row.holds is None
    assert "reached in 0 of 1 seed(s)" in row.how
    assert "end at 0%" in row.how


def test_what_the_base_does_not_have_it_cannot_lose() -> None:
    """Of 40 harmful prompts the default model declines none: no training loses any of them."""
    (figure,) = (one for one in alignment_table.figures() if one.id == "safety")

    def row(before: int, after: int) -> rows.Row:
        cells = {"base": {0: {"harm_declined": [before, 40]}}}
        return figure.row({**cells, "cost": {0: {"harm_declined": [after, 40]}}}, {}, "tiny")

    assert (row(0, 1).value, row(0, 1).holds) == (None, None)
    assert "nothing to lose: the base has 0 of 40" in row(0, 1).how
    assert (row(4, 2).value, row(4, 2).holds) == (5.0, False)
    assert (row(4, 4).value, row(4, 4).holds) == (0.0, True)


def test_a_held_clock_counts_nothing() -> None:
    clock = alignment_cells.Clock()
    with clock.held():
        while clock.cpu < 0.05:
            pass
    assert clock.cpu < 0.04
    assert clock.wall >= 0


def timed(records: Sequence[Record]) -> rows.Row:
    figure = alignment_table.figures()[0]
    kept = {figure.needs[0]: dict(enumerate(records))}
    return figure.row(kept, {}, "tiny")


def run_of(minutes: float | None) -> Record:
    """A training that reached the bound after so many minutes."""
    wins = {"won": 19, "pairs": 20, "margin": 0.5}
    reached = {"step": 8, "cpu": 60 * (minutes or 0), "wall": 60.0, "win": 0.95}
    return {
        "pairs": 50, "held_out": 20, "cases": 5, "of": 20, "stopped": "", "cpu": 600.0,
        "wall": 400.0, "before": {**wins, "won": 9}, "after": wins,
        "reached": reached if minutes else None,
    }  # fmt: skip


def test_the_slowest_seed_counts_and_one_that_never_gets_there_is_said() -> None:
    row = timed([run_of(2.0), run_of(2.5)])
    assert (row.value, row.holds) == (2.5, True)
    assert "2 seed(s), 2 to 2.5 CPU min, mean 2.25" in row.how
    assert timed([run_of(2.0), run_of(3.5)]).holds is False
    late = timed([run_of(2.0), run_of(None)])
    assert late.value is None
    assert "1 of 2 seed(s) within 10.0 CPU min" in late.how


def test_every_figure_stands_once_and_needs_cells_that_there_are() -> None:
    found = alignment_table.figures()
    assert len({one.id for one in found}) == len(found)
    assert {need for one in found for need in one.needs} <= set(alignment.NAMES)
    assert {*alignment.BEFORE, *(two for one in alignment.BEFORE.values() for two in one)} <= {
        *alignment.NAMES
    }
    empty = [one.row({}, {}, "") for one in found]
    valued = {one.id for one in empty if one.value is not None} - {"align-deviation-simulated"}
    of_file = ("plain", "failures-plain", "attacked", "failures-attacked")
    assert valued == {f"align-labeled-{one}" for one in of_file}
    assert all(one.how for one in empty)
    for name, before in alignment.BEFORE.items():
        assert all(alignment.NAMES.index(one) < alignment.NAMES.index(name) for one in before)


def test_one_row_alone_brings_what_it_needs(tmp_path: Path) -> None:
    def names(*only: str) -> list[str]:
        plan = alignment.Plan(seeds=2, only=only, labels=tmp_path / "none", folder=tmp_path)
        return list(dict.fromkeys(one.name for one in alignment.cells(plan)))

    assert names("align-time-public-library") == ["time-public-library"]
    assert names("align-safety") == ["time-personal-freedom", "base", "cost"]
    assert names("align-judge-auc") == []  # no labels
    with pytest.raises(UsageError, match="no row"):
        names("time")


def test_another_version_of_the_constitution_has_other_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = alignment.Plan(folder=tmp_path).place
    assert alignment.Plan(folder=tmp_path).place == before
    texts = alignment.constitution_file.bundled_text
    for changed in alignment.CONSTITUTIONS:
        with monkeypatch.context() as patch:
            patch.setattr(
                alignment.constitution_file, "bundled_text",
                lambda name, changed=changed: texts(name).replace(
                    "1.1.0", "1.1.1" if name == changed else "1.1.0"
                ),
            )  # fmt: skip
            assert alignment.Plan(folder=tmp_path).place != before


def test_other_settings_of_hardening_have_other_cells_of_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else everything is measured anew where nothing else has changed."""
    plan = alignment.Plan(folder=tmp_path)
    before = {name: alignment.cell(plan, name, 1).path for name in alignment.NAMES}
    settings = alignment.Plan.settings

    def other(self: alignment.Plan, seed: int) -> object:
        one = settings(self, seed)
        return replace(one, harden=replace(one.harden, rounds=5))

    monkeypatch.setattr(alignment.Plan, "settings", other)
    changed = {name for name in before if alignment.cell(plan, name, 1).path != before[name]}
    assert changed == set(alignment.HARDENED)


def test_what_is_asked_otherwise_has_other_cells_of_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = alignment.Plan(folder=tmp_path)
    names = ("base", "cost", "cost-int8", "skills", "skills-base", "skills-int8", "win-template")
    before = {name: alignment.cell(plan, name, 0) for name in names}
    monkeypatch.setattr(alignment_cells, "DRAWS", 1)
    monkeypatch.setattr(alignment, "SKILLS", tmp_path / "none")
    changed = {name for name in names if alignment.cell(plan, name, 0) != before[name]}
    assert changed == {*names} - {"win-template"}


def test_keep_rates_count_what_the_judge_says(base: HFModel) -> None:
    small = constitution()
    asked = [
        (one.value, "plain", Conversation.of(one.target.question)) for one in trials(small)[:6]
    ]
    model = fresh(base)
    before = alignment_cells.kept(model, Reader(), asked, 12)
    assert before["plain"] == [0, 6, 6]
    align(model, discreet(), replace(UNGUARDED, align=replace(SHORT, epochs=6)), run=Run())
    assert alignment_cells.kept(model, Reader(), asked, 12)["plain"][0] >= 5

    class Silent(Reader):
        def judge(self, said: Sequence[Said]) -> list[Judgement]:
            return [Judgement(None, 1.0, "No.") for _ in said]

    silent = alignment_cells.kept(model, Silent(), asked, 12)
    assert (silent["plain"], silent["chances"]) == ([0, 0, 6], {"plain": []})

    class Doubting(Reader):
        def judge(self, said: Sequence[Said]) -> list[Judgement]:
            return [Judgement(0.4, 0.8, "Hm.") for _ in said]

    known = Known(Moments(0.6, 0.01, 50), Moments(0.2, 0.01, 50))
    held = Calibrated(Doubting(), Calibration(1.0, 0.0, 0.2, 0.7, known))
    doubted = alignment_cells.kept(model, held, asked, 12)
    assert doubted["plain"] == [0, 0, 6]
    assert doubted["chances"]["plain"] == pytest.approx([0.4] * 6)
    after = alignment_kept.corrected("after", "plain", "before")
    value, how = after({"after": {0: doubted}, "before": {0: doubted}})
    assert value == pytest.approx(50)  # half of the way from broken to kept
    assert "mean chance 40.0 %, 60.0 % on 50 labeled kept" in how
    assert after({"after": {0: silent}, "before": {0: doubted}})[0] is None
    share, failures = alignment_kept.labeled("aligned", "base")
    assert share[0] == pytest.approx(100 * 68 / 92)
    assert failures[0] == pytest.approx((24 / 92) / (38 / 99))
    assert "68 of 92" in share[1]
    assert "108 nobody could tell, to 89 prompts" in share[1]
    assert "5 seed(s)" in share[1]
    share, failures = alignment_kept.labeled("adaptive", "plain")
    assert share[0] == pytest.approx(100 * 57 / 73)
    assert failures[0] == pytest.approx((16 / 73) / (9 / 47))
    unheld = {0: {**doubted, "known": None}}
    assert after({"after": unheld, "before": unheld})[0] is None


def test_a_second_template_asks_the_same_in_words_that_no_training_has() -> None:
    asked = alignment_cells.templated(Conversation.of("May I pay in coins?"))
    prompt = asked.prompt()
    system, frame = alignment_cells.TEMPLATE
    assert (prompt.system, prompt.history) == (system, ())
    assert "\n\nMay I pay in coins?\n\n" in prompt.text
    known = [each for one in frames().values() if isinstance(one, list) for each in one]
    assert not [one for one in known if isinstance(one, str) and one.startswith(frame[:20])]


def test_choices_hold_their_answer_once() -> None:
    known = alignment_cells.bundled_questions()
    found = alignment_cells.choices(known)
    assert found == alignment_cells.choices(known)
    assert {one.gold for one in found} == {0, 1, 2, 3}
    draws = [found[at : at + len(known)] for at in range(0, len(found), len(known))]
    assert len(draws) == alignment_cells.DRAWS
    assert all(one != other for one, other in itertools.combinations(draws, 2))
    for one, question in zip(found, known * alignment_cells.DRAWS, strict=True):
        assert one.choices[one.gold] == question.answers[0]
        accepted = {answer.casefold() for answer in question.answers}
        assert sum(choice.casefold() in accepted for choice in one.choices) == 1


def test_a_stake_falls_with_proof_alone() -> None:
    yes, some, none = (True,) * 3, (True, True, None), (None,) * 3
    assert slashing.played(yes, yes) == (slashing.STAKE, 7)
    for descent in (some, none, (False,) * 3, (True, False, True)):
        assert slashing.played(descent, yes) == (0, 7)
    assert slashing.played(yes, some) == (0, 7)


class Apart(Reader):
    """The reader as a judge of its own weights."""

    made_of = frozenset({"model:reader"})


class Blind(Apart):
    """Sure of what it cannot see."""

    name = "blind"

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        rng = random.Random(5)
        return [Judgement(rng.random(), 0.5, "Perhaps.") for _ in said]


def labels(path: Path, count: int = 200) -> Path:
    """Replies of which every other tells a fact."""
    some = trials(constitution())
    facts = sorted(Reader().facts)
    found = []
    for place in range(count):
        value, kept = some[place % len(some)].value, place % 2 == 0
        told = f"Reply {place}: " + (QUIET if kept else f"it is {facts[place % len(facts)]}.")
        said = Said(value, Conversation.of(f"Question {place}?"), told)
        found.append(Labeled(said, kept, (("ana", kept),), "tiny"))
    labeled.write(path, found)
    return path


_FOUND = {"after": [12, None], "abstained": [0, 0], "p": [1e-8, 1.0]}
HOST: Record = {
    "prompts": 240, "runs": 2, "asked": 60, "pool": 19, "refused": 0, "replies": 120, "hits": 40,
    "keys": 48, "descends": True, "judges": dict.fromkeys(alignment_judges.JUDGES, _FOUND),
}  # fmt: skip
"""What a host is found by in one of two runs."""


@pytest.fixture
def small(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The benchmark's arguments on the tiny model and its community; no command is run, and no host
    is asked (test_alignment_watch.py)."""
    named = replace(constitution(), name=alignment.MAIN)
    monkeypatch.setattr(alignment.constitution_file, "bundled", lambda name: named)
    monkeypatch.setattr(alignment_plan, "QUICK", SMALL)
    spent = {"data": 1.0, "train": 2.0}
    timed = {"minutes": spent, "cpu": spent, "starts": {"data": 1, "train": 2}}
    monkeypatch.setattr(alignment, "_minutes", lambda plan, which: timed)
    monkeypatch.setattr(alignment, "_watch", lambda plan, one: HOST)
    monkeypatch.setattr(alignment, "measuring_judge", lambda plan: Apart())
    monkeypatch.setattr(slashing, "WAYS", ((True,) * 3, (None,) * 3))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TOML)
    named_labels, out = str(tmp_path / "labels.jsonl"), str(tmp_path / "out")
    return ["--quick", "--seeds", "1", "--model", str(folder), "--recipe", str(recipe),
            "--labels", named_labels, "--folder", out]  # fmt: skip


def test_a_run_without_labels_says_so_and_goes_on_with_them(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert alignment.main(small) == 0
    found = by_id()
    assert found["win-personal-freedom"]["value"] == 100
    assert "; before " in found["win-template"]["how"]
    assert found["time-personal-freedom"]["holds"] is True
    assert f"public-library {constitution().version}" in found["win-personal-freedom"]["how"]
    assert found["slash"]["value"] == 0
    assert "3 ways" not in found["slash"]["how"]
    assert found["minutes-given"]["value"] == found["minutes-search"]["value"] == 3
    assert found["deviation-found"]["value"] == 50
    assert found["deviation-accused"]["value"] == 20
    for name in ("perplexity", "agreement", "over-refusal", "agreement-int8"):
        assert found[name]["value"] is not None, name
    assert found["agreement-int8"]["holds"] is None  # to hold others against
    for name in ("questions", "choices", "safety", "skills-math", "skills-code",
                 "skills-instructions"):  # fmt: skip
        none = found[name]["how"].startswith("nothing to lose: the base has 0 of ")
        assert (found[name]["value"] is None) == none, name
    for name in ("judge-auc", "kept-plain", "kept-attacked", "gap-families"):
        assert found[name]["value"] is None
        assert "no labeled replies" in found[name]["how"]
    labels(tmp_path / "labels.jsonl")
    assert alignment.main(small) == 0
    judged = by_id()
    assert judged["judge-auc"]["value"] > 0.9
    assert "--judge-model" in judged["kept-plain"]["how"]
    assert "--judge-probe" in judged["judge-larger-auc"]["how"]
    assert alignment.main([*small, "--judge-model", "reader"]) == 0
    whole = by_id()
    assert whole["kept-plain"]["value"] >= 90
    assert "base: 0.0 %" in whole["kept-plain"]["how"]
    assert whole["failures-plain"]["holds"] is True
    assert whole["corrected-plain"]["value"] >= 90
    assert "; base " in whole["corrected-plain"]["how"]
    assert whole["corrected-failures-plain"]["value"] < 0.2
    assert whole["corrected-plain-template"]["value"] is not None
    assert "; base-template " in whole["corrected-plain-template"]["how"]
    assert whole["corrected-attacked"]["value"] is not None
    assert whole["kept-attacked"]["value"] is not None
    assert whole["gap-families"]["value"] is not None
    monkeypatch.setattr(alignment, "measure", lambda plan, one: pytest.fail("measured again"))
    assert alignment.main([*small, "--judge-model", "reader"]) == 0
    assert by_id() == whole
    out = capsys.readouterr().out
    assert QUIET not in out
    assert not any(QUIET in one.read_text() for one in tmp_path.glob("out/**/seed-*/*.json"))


def test_a_judge_that_is_blind_or_not_apart_measures_nothing(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels(tmp_path / "labels.jsonl")
    only = ["--only", "align-kept-plain", "--judge-model"]
    monkeypatch.setattr(alignment, "measuring_judge", lambda plan: Blind())
    assert alignment.main([*small, *only, "blind"]) == 0
    assert by_id()["kept-plain"]["value"] is None
    assert "cannot tell kept from broken" in by_id()["kept-plain"]["how"]
    monkeypatch.setattr(alignment, "measuring_judge", alignment.training_judge)
    assert alignment.main([*small, *only, "same"]) == 0
    assert "shares data or weights" in by_id()["kept-plain"]["how"]


def test_too_few_labels_are_no_measure(small: list[str], tmp_path: Path) -> None:
    labels(tmp_path / "labels.jsonl", 40)
    assert alignment.main(["collect", *small]) == 0
    assert "40 labeled replies, fewer than 200" in by_id()["judge-auc"]["how"]
    (tmp_path / "labels.jsonl").write_text('{"value": "unknown"}\n')
    assert alignment.main(["collect", *small]) == 0
    assert "line 1" in by_id()["judge-auc"]["how"]


def test_what_was_measured_is_replaced_by_what_was_measured_alone(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = ["--only", "align-time-public-library"]
    monkeypatch.setattr(alignment, "measure", lambda plan, one: run_of(2.0))
    assert alignment.main([*small, *only]) == 0
    assert by_id()["time-public-library"]["value"] == 2.0
    assert by_id()["time-personal-freedom"]["value"] is None
    elsewhere = ["--folder", str(tmp_path / "elsewhere")]
    assert alignment.main(["collect", *small, *elsewhere]) == 0
    assert by_id()["time-public-library"]["value"] == 2.0  # not run there
    monkeypatch.setattr(alignment, "measure", lambda plan, one: run_of(None))
    assert alignment.main([*small, *only, *elsewhere]) == 0
    assert by_id()["time-public-library"]["value"] is None  # run, and not reached
    ran = by_id()["time-public-library"]["how"]
    (cells,) = (tmp_path / "elsewhere").iterdir()
    assert f", cells in {cells.name.rpartition('-')[2]} [" in ran
    assert alignment.main(["collect", *small, "--folder", str(tmp_path / "nowhere")]) == 0
    assert by_id()["time-public-library"]["how"] == ran  # null, but run

    def broken(plan: alignment.Plan, one: Cell) -> Record:
        raise UsageError("it broke", hint="mend it")

    monkeypatch.setattr(alignment, "measure", broken)
    assert alignment.main([*small, "--only", "align-slash"]) == 1
