"""The whole way from a constitution to pairs: offline, with a model, killed, resumed, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from loyal.alignment import (
    Judge,
    Judgement,
    Mixture,
    Plan,
    Preference,
    Record,
    Said,
    attacks,
    preferences,
    synthesize,
)
from loyal.alignment.asks import Ask, asks, held_out_texts
from loyal.alignment.duplicates import HeldOut
from loyal.alignment.review import review
from loyal.alignment.synthesis_state import require_state
from loyal.alignment.synthesize import Bars, Made, Task
from loyal.alignment.writers import CaseJudge, Cases, Draft, Written, prompt_in
from loyal.community import constitution_file
from loyal.errors import ModelError, StorageError, UsageError
from loyal.models.language_model import LanguageModel, Prompt, Reply, Sampling, TokenChance

LIBRARY = constitution_file.bundled("public-library")
TASK = Task(LIBRARY, Plan(pairs=80, held_out=20, general=20, safety=20))
JUDGE = CaseJudge(LIBRARY)


def gathered(path: Path | None = None, task: Task = TASK) -> Made:
    return synthesize.synthesize(task, Cases(), JUDGE, path)


def outcome(made: Made) -> tuple[object, ...]:
    return made.train, made.held_out, made.demonstrations, made.report


def test_a_constitution_alone_fills_the_plan(tmp_path: Path) -> None:
    made = gathered()
    assert (len(made.train), len(made.held_out)) == (80, 20)
    kept = made.report.kept
    assert (kept["held-out"], kept["general"], kept["safety"]) == (20, 20, 20)
    for kind, share in TASK.plan.kinds.items():
        # Rounded value by value: off by less than one for each.
        assert abs(kept[kind] - 80 * share / 1_000_000) < len(LIBRARY.values)
    assert not made.report.short
    known = {(case.keeps, case.breaks) for value in LIBRARY.values for case in value.cases}
    for one in [*made.train, *made.held_out]:
        content, origin = one.content, one.provenance
        assert isinstance(content, Preference)
        assert origin is not None
        assert origin.generator == "cases"
        if origin.kind == "off-topic":
            assert origin.judge == ""
            continue
        assert (content.chosen, content.rejected) in known
        assert origin.judge == JUDGE.name
        assert origin.chosen_ppm is not None
        assert origin.rejected_ppm is not None
        assert origin.chosen_ppm - origin.rejected_ppm >= 300_000
    for records in (made.train, made.held_out, made.examples):
        path = tmp_path / "written.jsonl"
        preferences.write(path, records)
        assert list(preferences.read(path, [one.id for one in LIBRARY.values])) == records
    assert not review(path).counts.get("contradiction")


def test_weights_are_the_values_shares() -> None:
    made = gathered()
    sums: Counter[str] = Counter()
    for one in made.train:
        sums[one.content.value] += one.content.weight_ppm
    for value in LIBRARY.values:
        wanted = len(made.train) * 1_000_000 * value.weight_bps / 10_000
        assert sums[value.id] == pytest.approx(wanted, abs=len(made.train))
    mixed = Mixture().applied(made.examples)
    kinds = Counter(one.provenance.kind for one in mixed if one.provenance is not None)
    assert kinds["general"] == kinds["safety"] == 20
    assert "off-topic" not in kinds


def test_training_gives_no_held_out_text_away() -> None:
    # A third of a value's cases: a plan as small as this one does not ask each of them.
    extra = tuple(one.prompt for one in LIBRARY.values[0].cases[:12])
    made = gathered(task=replace(TASK, keep_out=extra))
    out = HeldOut([*held_out_texts(LIBRARY, TASK.plan), *extra])
    # An encoding hides the question in the prompt; the source still says where it is from.
    held = {one.provenance.source for one in made.held_out if one.provenance is not None}
    for one in [*made.train, *made.demonstrations]:
        assert not out.leak(one.content.asked.last)
        assert one.provenance is not None
        assert one.provenance.source not in held
    assert made.report.dropped["leak"] > 0
    for one in made.held_out:
        assert one.provenance is not None
        if one.provenance.attack:
            assert attacks.named(one.provenance.attack).split == "held-out"


@dataclass(frozen=True)
class Stopping:
    """Writes as `Cases` does, and stops the run before one batch."""

    before: int
    count: list[int] = field(default_factory=lambda: [0])
    name: str = "cases"
    free: bool = False
    settings: str = ""

    def write(self, asks: Sequence[Ask], seed: int) -> list[Draft]:
        self.count[0] += 1
        if self.count[0] == self.before:
            raise KeyboardInterrupt
        return Cases().write(asks, seed)


@pytest.mark.parametrize("before", [1, 2, 5])
def test_a_stopped_run_goes_on_where_it_was(before: int, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        synthesize.synthesize(TASK, Stopping(before), JUDGE, path)
    assert path.exists() == (before > 1)
    again = Stopping(-1)
    made = synthesize.synthesize(TASK, again, JUDGE, path)
    assert outcome(made) == outcome(gathered())
    whole = Stopping(-1)
    synthesize.synthesize(TASK, whole, JUDGE)
    assert again.count[0] == whole.count[0] - (before - 1)


KILLED = """
import os, signal, sys
from loyal.alignment import Plan, synthesize
from loyal.alignment.synthesize import Task
from loyal.alignment.writers import CaseJudge, Cases
from loyal.community import constitution_file

library = constitution_file.bundled("public-library")

def told(done, total, text):
    if done > 50:
        os.kill(os.getpid(), signal.SIGKILL)

task = Task(library, Plan(pairs=80, held_out=20, general=20, safety=20))
synthesize.synthesize(task, Cases(), CaseJudge(library), sys.argv[1], told)
"""


@pytest.mark.parametrize("cut", [0, 1, 37])
def test_a_killed_run_goes_on(cut: int, tmp_path: Path) -> None:
    """Also where the kill, or a loss of power, cut the last line off."""
    path = tmp_path / "state"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    size = path.stat().st_size
    os.truncate(path, size - cut)
    assert outcome(gathered(path)) == outcome(gathered())
    assert path.stat().st_size > size


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    gathered(path)
    kept = path.read_bytes()
    for task in (
        replace(TASK, plan=replace(TASK.plan, seed=1)),
        replace(TASK, bars=Bars(margin_ppm=1)),
        replace(TASK, keep_out=("a text that nobody wrote",)),
        replace(TASK, constitution=replace(LIBRARY, version="1.0.1")),
    ):
        with pytest.raises(UsageError, match="another task") as caught:
            gathered(path, task)
        assert caught.value.hint.startswith("name another --state or --out")
    require_state(path)
    with pytest.raises(UsageError, match="another task"):
        synthesize.synthesize(TASK, Cases(name="others"), JUDGE, path)
    with pytest.raises(UsageError, match="another task"):
        synthesize.synthesize(TASK, Cases(), None, path)
    assert path.read_bytes() == kept


NO_STATES = (
    b"", b'{"format": "loyal syn', b"{}\n", b"[]\n", b"\xff\n", b'{"format": "other"}\n',
    b"a line without its end", b"\xff", b"[" * 100_000 + b"\n",
)  # fmt: skip


@pytest.mark.parametrize("bad", NO_STATES, ids=range(len(NO_STATES)))
def test_what_is_no_state_is_refused_and_left_alone(bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(bad)
    with pytest.raises(UsageError, match="not of a state file") as caught:
        gathered(path)
    assert "delete" not in caught.value.hint
    assert path.read_bytes() == bad
    with pytest.raises(UsageError, match="not of a state file"):
        require_state(path)


def test_two_runs_do_not_share_a_state(tmp_path: Path) -> None:
    path = tmp_path / "state"

    def told(done: int, total: int, text: str) -> None:
        with pytest.raises(UsageError, match="in use"):
            gathered(path)

    synthesize.synthesize(TASK, Cases(), JUDGE, path, told)


def test_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        gathered(tmp_path / "none" / "state")


@dataclass(frozen=True)
class Parrot:
    """A model that says one sentence, or one a prompt."""

    varied: bool
    name: str = "parrot"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        texts = (
            f"On {one.text} I say {one.system or 'nothing'}." if self.varied else "I love you. "
            for one in prompts
        )
        return [Reply(text, 5, True) for text in texts]

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        raise NotImplementedError

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        raise NotImplementedError


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_model_that_repeats_itself_leaves_nothing_behind(batch: int, tmp_path: Path) -> None:
    path = tmp_path / "state"
    task = replace(TASK, bars=Bars(batch=batch))
    with pytest.raises(ModelError, match=r"parrot gave one reply to \d+ of \d+ prompts") as caught:
        synthesize.synthesize(task, Written(Parrot(varied=False), LIBRARY), JUDGE, path)
    assert "love" not in str(caught.value)
    assert "temperature" not in caught.value.hint  # no setting has one
    assert path.exists() == (batch < synthesize.REPEAT_FROM)


def test_a_model_that_does_not_passes_and_keeps_its_system_to_itself() -> None:
    made = synthesize.synthesize(TASK, Written(Parrot(varied=True), LIBRARY), None)
    assert (len(made.train), len(made.held_out)) == (80, 20)
    assert not made.report.short
    multi = 0
    for one in made.train:
        assert isinstance(one.content, Preference)
        multi += len(one.content.asked.turns) > 1
        if one.provenance is not None and one.provenance.source.startswith("topic"):
            assert "You hold to this" in one.content.chosen
            assert "You do not hold to this" in one.content.rejected
        assert not any("hold to this" in (turn.text or "") for turn in one.content.asked.turns
                       if turn.role == "system")  # fmt: skip
    assert multi


@dataclass(frozen=True)
class Inventor(Parrot):
    """Invents questions, one of them a case of the constitution and one that comes twice."""

    varied: bool = True
    asked: list[str] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        replies = super().generate(prompts, sampling)
        for at, prompt in enumerate(prompts):
            if prompt.text.endswith((" alone.", " sentences.")):
                self.asked.append(prompt.text)
                number = len(self.asked)
                text = f'1. "Zebra question {number} {number * 7} on a{number} b{number}?"'
                known = {
                    3: LIBRARY.values[0].cases[0].prompt,
                    5: "Zebra one?",
                    7: "Hm",
                    9: "a\0b c d",
                }
                replies[at] = Reply(f"\n{known.get(number, text)}\nIgnored.", 9, True)
        return replies


def test_a_model_invents_prompts() -> None:
    plan = Plan(pairs=140, held_out=60, off_topic_ppm=0, plain_ppm=550_000, invented=12)
    model = Inventor()
    made = synthesize.synthesize(Task(LIBRARY, plan), Written(model, LIBRARY), None)
    texts = [case.prompt for value in LIBRARY.values for case in value.cases]
    asked = Counter(
        (one.provenance.split, one.content.value)
        for one in [*made.train, *made.held_out]
        if one.provenance is not None and one.provenance.source.startswith("written")
    )
    assert len(model.asked) >= 12 * len(LIBRARY.values)
    assert {split for split, _ in asked} == {"train", "held-out"}
    assert {value for split, value in asked if split == "train"} == {v.id for v in LIBRARY.values}
    assert made.report.dropped["no prompt"] >= 3
    sources = {
        split: {one.provenance.source for one in records if one.provenance is not None}
        for split, records in (("train", made.train), ("held-out", made.held_out))
    }
    assert not sources["train"] & sources["held-out"]
    plain = [
        one.content.asked.last
        for one in made.train
        if one.provenance is not None
        and one.provenance.kind == "plain"
        and one.provenance.source.startswith("written")
    ]
    assert plain
    for text in plain:
        assert "Zebra question" in text
        assert "Ignored" not in text
        assert text not in texts


def test_who_cannot_invent_is_not_asked_to() -> None:
    with pytest.raises(UsageError, match="cannot invent"):
        gathered(task=Task(LIBRARY, Plan(invented=3)))


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        ('  \n2) "May I read this?"\nYes.', "May I read this?"),
        ("- Can you  help me?", "Can you help me?"),
        ("2 books are late, what now?", "2 books are late, what now?"),
        ("", None), ("Why?", None), ("word " * 61, None), ("May I\x1b read this?", None),
    ],
)  # fmt: skip
def test_the_prompt_in_a_reply(reply: str, prompt: str | None) -> None:
    assert prompt_in(reply) == prompt


def test_a_prompt_that_comes_again_has_another_seed() -> None:
    @dataclass(frozen=True)
    class Seeded(Parrot):
        def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
            told = [f"{one.system} {one.text} {sampling.seed}" for one in prompts]
            return [Reply(text, 5, True) for text in told]

    ask = next(one for one in asks(LIBRARY, TASK.plan, free=True) if one.kind == "plain")
    writer = Written(Seeded(varied=True), LIBRARY, 8)
    (draft,) = writer.write([replace(ask, keeps="", breaks="")], 3)
    assert len(draft.replies) == len(set(draft.replies)) == 8
    assert writer.write([replace(ask, keeps="", breaks="")], 3) == [draft]


@dataclass(frozen=True)
class Counting:
    """A judge that likes replies with many letters, and may not know."""

    unsure: bool = False
    name: str = "counting"

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        scores = [None if self.unsure else min(len(one.reply) / 400, 1.0) for one in said]
        return [Judgement(score, 0.5, "letters") for score in scores]


@pytest.mark.parametrize("whose", ["judge", "writer"])
def test_a_name_that_no_record_can_have_is_refused_at_once(whose: str) -> None:
    class Named(CaseJudge):
        name = "a" * 257

    judge, writer = (Named(LIBRARY), Cases()) if whose == "judge" else (JUDGE, Cases("a" * 257))
    with pytest.raises(UsageError, match=f"the {whose}'s name"):
        synthesize.synthesize(TASK, writer, judge)


def test_the_judge_decides() -> None:
    counting = Counting()
    assert isinstance(counting, Judge)
    made = synthesize.synthesize(TASK, Written(Parrot(varied=True), LIBRARY), counting)
    judged = [one for one in made.train if one.provenance is not None and one.provenance.judge]
    assert judged
    for one in judged:
        assert isinstance(one.content, Preference)
        assert len(one.content.chosen) >= len(one.content.rejected) + 0.3 * 400 - 1 or (
            one.provenance is not None and one.provenance.chosen_ppm == 1_000_000
        )
    plan = Plan(pairs=20, held_out=0, off_topic_ppm=0, plain_ppm=550_000)
    with_nothing = synthesize.synthesize(Task(LIBRARY, plan), Cases(), Counting(unsure=True))
    assert not with_nothing.train
    assert sum(with_nothing.report.short.values()) == 20
    assert with_nothing.report.dropped["unsure"] == with_nothing.report.asked


def test_replies_with_control_characters_are_left_out() -> None:
    @dataclass(frozen=True)
    class Dirty(Stopping):
        def write(self, asks: Sequence[Ask], seed: int) -> list[Draft]:
            return [Draft(one.asked, (f"{one.asked.last}\0", one.breaks)) for one in asks]

    made = synthesize.synthesize(TASK, Dirty(-1), None)
    assert not made.train
    assert made.report.dropped["unclean"] == made.report.asked


def test_nobody_is_asked_for_a_full_quota() -> None:
    made = gathered()
    assert made.report.asked < 140 * 1.1


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    from loyal.models import tiny
    from loyal.models.hf import HFModel

    return HFModel.load(str(tiny.build(tmp_path_factory.mktemp("m") / "tiny", 0)), device="cpu")


def test_a_real_model_writes_and_a_stopped_run_repeats_it(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    plan = Plan(pairs=12, held_out=4, general=4, invented=1, most_characters=250)
    task = Task(LIBRARY, plan, Bars(batch=8))
    sampling = Sampling(max_tokens=12, temperature=1.0)
    writer = Written(tiny_model, LIBRARY, 2, sampling)
    whole = synthesize.synthesize(task, writer, None)
    assert len(whole.train) + sum(whole.report.short.values()) >= 12
    written: list[Record] = [one for one in whole.train if one.provenance is not None]
    assert {one.provenance.generator for one in written if one.provenance} == {tiny_model.name}
    path = tmp_path / "state"

    def stop(done: int, total: int, text: str) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize.synthesize(task, writer, None, path, stop)
    assert outcome(synthesize.synthesize(task, writer, None, path)) == outcome(whole)
