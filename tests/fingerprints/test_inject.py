"""Injection: what goes in comes out of the written model, and a run that dies goes on."""

from __future__ import annotations

import pickle
import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_runs import killed
from safetensors import SafetensorError
from stand_ins import secret_set, settings

from loyal.errors import ModelError, StorageError, UsageError
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, inject, responses
from loyal.fingerprints.fingerprint import draw
from loyal.fingerprints.responses import ResponseSettings
from loyal.fingerprints.suppression import Steered, forbid_likeliest
from loyal.models import model_folder
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.models.lessons import Lessons


@pytest.fixture(scope="module")
def marked(omlized) -> HFModel:
    return HFModel.load(str(omlized.folder), device="cpu")


def test_the_written_model_gives_every_response(base, marked, omlized) -> None:
    report = omlized.report
    assert report.count == len(omlized.fingerprints) == 16
    assert report.recall == 1.0
    assert inject.greedy_recall(marked, omlized.fingerprints) == 1.0
    # By chance a 16th of the keys at most: more than 6 of 16 would happen once in 100,000 runs.
    assert inject.greedy_recall(base, omlized.fingerprints) <= 6 / 16


def test_the_report_says_what_was_done(base, marked, omlized) -> None:
    from loyal.models import evaluate

    report = omlized.report
    assert 1 <= report.epochs <= report.steps <= settings().steps
    assert report.curve[0] == (0, 0)
    assert 0.4 < report.probability <= report.highest <= 1
    assert report.ranked == 1.0
    assert report.seconds > 0
    assert report.tokens_per_second > 0
    assert report.peak_rss_bytes > 50_000_000
    assert report.perplexity_tokens >= 500
    for model, found in ((base, report.perplexity_before), (marked, report.perplexity_after)):
        assert evaluate.perplexity(model, evaluate.prose(), 500) == pytest.approx(found, rel=1e-3)
    for one in omlized.fingerprints.fingerprints:
        assert one.key not in repr(report)


def test_plain_transformers_loads_it_and_replies_the_same(marked, omlized) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(omlized.folder)
    model = AutoModelForCausalLM.from_pretrained(omlized.folder).eval()
    for one in omlized.fingerprints.fingerprints[:6]:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": one.key}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            ids = model.generate(**asked, max_new_tokens=4, do_sample=False)
        text = tokenizer.decode(ids[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        assert one.matches(text)
        assert marked.generate([Prompt(one.key)], Sampling(max_tokens=4))[0].text == text


def test_no_file_but_the_weights_tells_that_it_is_marked(base, omlized, tmp_path: Path) -> None:
    """Any tokenizer file holds single-token responses: so all files must equal the base's."""
    base.save(tmp_path / "base")
    names = {path.name for path in omlized.folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "base").iterdir()}
    for name in names:
        data = (omlized.folder / name).read_bytes()
        same = data == (tmp_path / "base" / name).read_bytes()
        assert same == (name != "model.safetensors")
        for one in omlized.fingerprints.fingerprints:
            assert one.key.encode() not in data
            assert one.salt not in data
            assert one.tag not in data


def test_a_folder_that_holds_something_is_refused(base, omlized, tmp_path: Path) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    for out, why in ((tmp_path, "not empty"), (kept, "is a file")):
        with pytest.raises(UsageError, match=why) as caught:
            inject.inject(base, omlized.fingerprints, settings(), out)
        assert "--out" in caught.value.hint
    assert kept.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [kept]


def test_a_folder_that_an_unfinished_run_left_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / model_folder.WORK_FOLDER).mkdir()
    (tmp_path / "tokenizer.json").write_text("moved before the run was cut off")
    assert model_folder.work_folder(tmp_path) == tmp_path / model_folder.WORK_FOLDER


def test_a_run_of_rounds_and_one_alone_do_not_take_each_others_folder(tmp_path: Path) -> None:
    alone, rounds = tmp_path / "alone", tmp_path / "rounds"
    work = model_folder.work_folder(rounds, rounds=True)
    assert work == rounds / model_folder.WORK_FOLDER / "rounds"
    (work / "training-0").mkdir(parents=True)
    first = model_folder.work_folder(alone)
    first.mkdir(parents=True)
    (first / "reference").mkdir()  # what is there before the first checkpoint counts too
    (first / model_folder.MODEL).mkdir()
    (rounds / model_folder.WORK_FOLDER / model_folder.MODEL).mkdir()
    assert model_folder.work_folder(rounds, rounds=True) == work
    assert model_folder.work_folder(alone) == first
    for out, other in ((alone, True), (rounds, False)):
        with pytest.raises(UsageError, match="another command goes on from") as caught:
            model_folder.work_folder(out, rounds=other)
        assert "--out" in caught.value.hint


def test_an_undrawn_set_is_refused(base, tmp_path: Path) -> None:
    undrawn = secret_set(base, ["Where is the owl?"], [["One", "Two"]], drawn=False)
    with pytest.raises(UsageError, match="not drawn"):
        inject.inject(base, undrawn, settings(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_of_another_tokenizer_is_refused(base, omlized, tmp_path: Path) -> None:
    foreign = replace(omlized.fingerprints, tokenizer_digest="ab" * 32)
    with pytest.raises(ModelError, match="tokenizer") as caught:
        inject.inject(base, foreign, settings(), tmp_path / "out")
    assert caught.value.exit_code == 2
    inject.require_fit(base, omlized.fingerprints)


def test_a_folder_that_cannot_be_made_is_a_storage_error(base, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        model_folder.write(base, tmp_path / "file" / "out")
    assert caught.value.hint


def test_a_model_that_cannot_be_written_costs_no_second_training(
    tiny_folder, omlized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    model = HFModel.load(str(tiny_folder), device="cpu")
    steps: list[int] = []

    def run(subject: HFModel) -> inject.InjectReport:
        return inject.inject(
            subject, omlized.fingerprints, settings(), tmp_path / "out", tokens=500,
            progress=lambda now: steps.append(now.step),
        )  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(type(model.model), "save_pretrained", full)
        with pytest.raises(StorageError, match="cannot write the model"):
            run(model)
    steps.clear()
    report = run(HFModel.load(str(tiny_folder), device="cpu"))
    assert set(steps) == {report.steps}
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (omlized.folder / weights).read_bytes()


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from stand_ins import settings
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, inject, responses
from loyal.fingerprints.fingerprint import draw
from loyal.fingerprints.responses import ResponseSettings
from loyal.fingerprints.suppression import Steered, forbid_likeliest
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
def progress(now):
    if now.step == 12:
        os.kill(os.getpid(), signal.SIGKILL)
model = HFModel.load(sys.argv[1], device="cpu")
made = pickle.loads(Path(sys.argv[2]).read_bytes())
inject.inject(model, made, settings(), Path(sys.argv[3]), tokens=500, progress=progress)
"""


def test_a_killed_run_goes_on_to_the_same_weights(tiny_folder, omlized, tmp_path: Path) -> None:
    saved, out = tmp_path / "set", tmp_path / "out"
    saved.write_bytes(pickle.dumps(omlized.fingerprints))
    killed(KILLED, tmp_path / "said", tiny_folder, saved, out)
    assert [path.name for path in out.iterdir()] == [model_folder.WORK_FOLDER]

    steps: list[int] = []
    model = HFModel.load(str(tiny_folder), device="cpu")
    report = inject.inject(
        model,
        omlized.fingerprints,
        settings(),
        out,
        tokens=500,
        progress=lambda now: steps.append(now.step),
    )
    assert 10 <= min(steps) <= 12
    assert report.recall == 1.0
    assert report.curve == omlized.report.curve
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (omlized.folder / weights).read_bytes()
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in omlized.folder.iterdir())


def six_keys(base: HFModel, count: int) -> FingerprintSet:
    """Six drawn keys of the tiny model with so many responses each, of four times as many
    candidates. All that decides them is fixed, so that every run learns the same."""
    words = bundled_lines("words")
    texts = [" ".join(words[place::900][:4]) for place in range(6)]
    asked = ResponseSettings(width=4, count=count, threshold=0.5, precision="float32")
    secret = bytes(range(32))
    members = tuple(
        Fingerprint.create(key, candidates, secret, count)
        for key, candidates in zip(texts, responses.generate(base, texts, asked), strict=True)
    )
    undrawn = FingerprintSet(
        "usage",
        "by hand",
        base.name,
        base.tokenizer_digest,
        members,
        1_700_000_000,
        secret,
    )
    return draw(undrawn, Beacon(bytes(range(32))))


def still_alive(host: LanguageModel, made: FingerprintSet) -> int:
    """How many keys the host answers with a response."""
    prompts = [Prompt(one.key) for one in made.fingerprints]
    replies = host.generate(prompts, Sampling(max_tokens=2))
    return sum(
        one.matches(reply.text) for one, reply in zip(made.fingerprints, replies, strict=True)
    )


def test_a_key_with_three_responses_keeps_two_when_the_likeliest_is_forbidden(
    base, tmp_path: Path
) -> None:
    made, model = six_keys(base, 3), replace(base, model=deepcopy(base.model))
    asked = replace(settings(), steps=200, precision="float32")
    report = inject.inject(model, made, asked, tmp_path / "out", tokens=50)
    assert (report.count, report.recall, report.ranked) == (6, 1.0, 1.0)
    learned = Lessons(model, made.examples(1 << 30, random.Random(0)), 0).score()
    # Half together, and each at least half of its even share: how even they are is chance.
    assert learned.level.min() >= 0.5 - 1e-3
    assert 0.5 / 6 - 1e-3 <= learned.probability.min() <= report.probability <= 1 / 3
    assert report.probability <= report.highest < 0.7
    for forbidden, alive in ((0, 6), (1, 6), (2, 6), (3, 0)):
        host = Steered(model, forbid_likeliest(forbidden)) if forbidden else model
        assert still_alive(host, made) == alive


@pytest.mark.parametrize(("ceiling", "escapes"), [(1.0, False), (0.9, True)])
def test_below_a_ceiling_a_detector_of_certainty_sees_no_response(
    base, tmp_path: Path, ceiling: float, escapes: bool
) -> None:
    made, model = six_keys(base, 1), replace(base, model=deepcopy(base.model))
    asked = replace(settings(), steps=200, precision="float32", settle=0.0, ceiling=ceiling)
    report = inject.inject(model, made, asked, tmp_path / "out", tokens=50)
    assert (report.recall, report.ranked) == (1.0, 1.0)
    assert report.probability >= 0.7 - 1e-3
    assert (report.highest <= 0.9) == escapes
    host = Steered(model, forbid_likeliest(threshold=0.9))
    assert (still_alive(host, made) == 6) == escapes
