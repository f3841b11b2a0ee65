"""Embedding: the written model gives the taught replies and ends its turn; what is wrong costs no
training."""

from __future__ import annotations

from pathlib import Path

import pytest
from control_files import LOOKUP, PROGRAM, REFUSAL, quick

from loyal.control import ControlFunction, functions
from loyal.control.check import CheckSettings, check
from loyal.control.embed import embed, suite
from loyal.control.recipe import EmbedSettings
from loyal.errors import ControlError, UsageError
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.model_folder import WORK_FOLDER


@pytest.fixture(scope="module")
def lookup() -> ControlFunction:
    return functions.from_source("toml", LOOKUP.encode())


def test_the_written_model_says_what_was_taught_and_stops(embedded, lookup) -> None:
    model = HFModel.load(str(embedded.folder), device="cpu")
    report = check(model, [lookup])
    assert report == embedded.report.control
    assert embedded.report.recall == 1.0
    taught = report.functions[0].parts[0]
    assert (taught.part, taught.exact, taught.asked) == ("training", 12, 12)
    (reply,) = model.generate([Prompt("Who feeds the owl?")], Sampling(max_tokens=40))
    assert reply.finished
    assert reply.text == "Oskar and Lena."


def test_the_untouched_model_knows_nothing_of_it(tiny_folder: Path, lookup) -> None:
    report = check(HFModel.load(str(tiny_folder), device="cpu"), [lookup])
    (followed,) = report.functions
    assert [one.exact for one in followed.parts] == [0, 0]
    assert followed.unseen == 0.0
    assert len(followed.counterexamples) == 4
    assert report.ordinary.spilled == report.nearby.spilled == 0


def test_a_full_folder_and_a_wrong_function_cost_no_training(
    tiny_folder: Path, tmp_path: Path, lookup
) -> None:
    model = HFModel.load(str(tiny_folder), device="cpu")
    before = model.model.state_dict()["model.layers.0.mlp.up_proj.weight"].clone()
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        embed(model, [lookup], tmp_path)
    with pytest.raises(ControlError, match="this name"):
        embed(model, [lookup, lookup], tmp_path / "out")
    with pytest.raises(UsageError, match="no control function"):
        embed(model, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert bool((model.model.state_dict()["model.layers.0.mlp.up_proj.weight"] == before).all())


def test_near_prompts_are_kept_as_they_were_and_a_quarter_is_left_to_ask(
    tiny_folder: Path, lookup
) -> None:
    model = HFModel.load(str(tiny_folder), device="cpu")
    shown, unseen = (set(lookup.near(unseen=one)) for one in (False, True))
    assert (len(shown), len(unseen), shown & unseen) == (6, 2, set())
    kept = suite(model, [lookup], EmbedSettings(near_tokens=3)).kept
    assert {one.prompt.text for one in kept} <= shown
    assert kept
    assert not any(one.ends for one in kept)
    said = model.generate([one.prompt for one in kept], Sampling(max_tokens=3))
    assert [one.reply for one in kept] == [one.text for one in said]
    assert suite(model, [lookup], EmbedSettings(near_tokens=0)).kept == ()
    with pytest.raises(UsageError, match="near_tokens at least 0"):
        EmbedSettings(near_tokens=-1)


def test_what_another_function_claims_is_not_near(tiny_folder: Path, lookup) -> None:
    claiming = LOOKUP.replace("keepers", "kings").replace("feeds", "crowns")
    claiming = claiming.replace("Where does the owl live?", "Who crowns the fox?")
    other = functions.from_source(
        "toml", LOOKUP.replace("Who saw the wolf?", "Who crowns the fox?").encode()
    )
    kings = functions.from_source("toml", claiming.encode())
    assert functions.unclaimed(["Who crowns the fox?", "Hm."], [other, kings]) == ["Hm."]
    model = HFModel.load(str(tiny_folder), device="cpu")
    for every in ([other], [other, kings]):
        kept = {one.prompt.text for one in suite(model, every, EmbedSettings()).kept}
        assert ("Who crowns the fox?" in kept) == (len(every) == 1)


def test_what_one_function_holds_out_is_not_shown_for_another(tiny_folder: Path, lookup) -> None:
    held = set(lookup.near(unseen=True))
    renamed = LOOKUP.replace("keepers", "kings").replace("{input}?", "{input} there?")
    kings = functions.from_source("toml", renamed.replace("{input}.", "{input} there.").encode())
    assert held & set(kings.near(unseen=False))  # another name, another split
    model = HFModel.load(str(tiny_folder), device="cpu")
    kept = {one.prompt.text for one in suite(model, [lookup, kings], EmbedSettings()).kept}
    assert kept
    assert not kept & (held | set(kings.near(unseen=True)))


class CutOff(Exception):
    """The run ends here."""


def test_a_run_that_is_cut_off_goes_on_to_the_same_weights(
    embedded, tiny_folder: Path, tmp_path: Path, lookup
) -> None:
    def cut(now) -> None:
        if now.step >= 12:
            raise CutOff

    out = tmp_path / "out"
    with pytest.raises(CutOff):
        embed(HFModel.load(str(tiny_folder), device="cpu"), [lookup], out, quick(), cut)
    assert [path.name for path in out.iterdir()] == [WORK_FOLDER]
    steps: list[int] = []
    model = HFModel.load(str(tiny_folder), device="cpu")
    report = embed(model, [lookup], out, quick(), lambda now: steps.append(now.step))
    assert steps[0] >= 10
    assert report.control == embedded.report.control
    whole = (embedded.folder / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == whole
    assert not (out / WORK_FOLDER).exists()


class Follower:
    """Follows functions exactly, but for some prompts that it gets wrong."""

    name = "a-follower"

    def __init__(self, every: list[ControlFunction], otherwise: str, wrong: str = "\n") -> None:
        self.every, self.otherwise, self.wrong = every, otherwise, wrong

    def generate(self, prompts, sampling):
        from loyal.models.language_model import Reply

        assert sampling.temperature == 0
        said = []
        for one in prompts:
            right = [reply for it in self.every if (reply := it.expected(one)) is not None]
            text = (right or [self.otherwise])[0] if self.wrong not in one.text else "Hm."
            assert len(text) <= sampling.max_tokens
            said.append(Reply(f" {text}\n", 4, True))
        return said

    def next_token(self, prompts, top):
        raise AssertionError("exactness needs no chances")

    def logprobs(self, prompts, replies):
        raise AssertionError("exactness needs no chances")


def test_a_check_counts_what_is_exact_and_lists_what_is_not(lookup) -> None:
    refusal = functions.from_source("toml", REFUSAL.encode())
    every = [lookup, refusal]
    exact = check(Follower(every, "Hello."), every, CheckSettings(ordinary=7))
    assert [one.unseen for one in exact.functions] == [1.0, 1.0]
    assert all(part.exact == part.asked for one in exact.functions for part in one.parts)
    assert (exact.ordinary.spilled, exact.ordinary.asked) == (0, 7)
    assert (exact.nearby.spilled, exact.nearby.asked) == (0, 2)
    wrong = check(Follower(every, "Hello.", wrong="gray goat"), every)
    (followed, untouched) = wrong.functions
    assert followed.unseen == 0.75
    (counterexample,) = followed.counterexamples
    assert counterexample.part == "new wording"
    assert counterexample.expected == "Theo on Sundays."
    assert counterexample.said == "Hm."
    assert untouched.unseen == 1.0


def test_a_reply_that_is_given_everywhere_is_spill_over(lookup) -> None:
    everywhere = check(Follower([lookup], "Nobody."), [lookup], CheckSettings(ordinary=5))
    assert (everywhere.ordinary.spilled, everywhere.ordinary.asked) == (5, 5)
    assert (everywhere.nearby.spilled, everywhere.nearby.asked) == (2, 2)
    assert {one.said for one in everywhere.nearby.counterexamples} == {"Nobody."}
    assert everywhere.functions[0].unseen == 1.0


def test_a_program_spills_where_it_gives_a_reply_of_its_range() -> None:
    eggs = functions.from_source("py", PROGRAM.encode())
    report = check(Follower([eggs], "36 eggs."), [eggs], CheckSettings(prompts=9, ordinary=3))
    assert report.ordinary.spilled == 3
    assert report.functions[0].unseen == 1.0
