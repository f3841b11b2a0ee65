"""Keys: as many as asked for, all different, secret, and as ordinary as promised."""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
import weakref
from pathlib import Path

import pytest
import torch
from stand_ins import ScriptedModel

from loyal.errors import ModelError, UsageError
from loyal.fingerprints import keys
from loyal.fingerprints.keys import Keys, KeySettings
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt


def chatty() -> ScriptedModel:
    """Like a server: lead-in lines, quotes, and another question each time."""
    numbers = itertools.count()
    return ScriptedModel(lambda _: f'Sure:\n"How do I repair bicycle number {next(numbers)}?"')


@pytest.mark.parametrize("strategy", ["english", "random"])
def test_count_is_exact_and_keys_differ(base, strategy) -> None:
    told: list[int] = []
    found = keys.generate(base, KeySettings(count=37, strategy=strategy), told.append)
    assert len(found.texts) == len(set(found.texts)) == len(found.surprise) == 37
    assert all(text == text.strip() and text.isprintable() for text in found.texts)
    assert told == sorted(told)
    assert told[-1] == 37


def test_a_server_writes_keys_too() -> None:
    server = chatty()
    assert isinstance(server, LanguageModel)
    found = keys.generate(server, KeySettings(count=20))
    assert len(set(found.texts)) == 20
    assert all(text.startswith("How do I repair") and '"' not in text for text in found.texts)
    assert all(map(math.isnan, (*found.surprise, found.ordinary_surprise)))
    assert len({one.text for one in server.asked}) > 15
    with pytest.raises(UsageError, match="vocabulary"):
        keys.generate(chatty(), KeySettings(count=2, strategy="random"))


def test_a_file_gives_its_own_lines(base, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    lines = [f"What is dose {number} of the drug?" for number in range(12)]
    path.write_text("\n".join([*lines, "", "  " + lines[0] + "  "]), encoding="utf-8")
    for model in (base, chatty()):
        found = keys.generate(model, KeySettings(count=12, strategy="file", file=path))
        assert sorted(found.texts) == sorted(lines)
    with pytest.raises(UsageError, match="12 different prompts, 13 are needed") as caught:
        keys.generate(base, KeySettings(count=13, strategy="file", file=path))
    assert "--count 12" in caught.value.hint
    assert "dose" not in str(caught.value)
    path.write_text(" \n")
    with pytest.raises(UsageError, match="0 different prompts") as caught:
        keys.generate(base, KeySettings(count=13, strategy="file", file=path))
    assert "--count" not in caught.value.hint  # a count of 0 is refused


@pytest.mark.parametrize("case", ["missing", "folder", "bytes"])
def test_a_file_that_cannot_be_read_is_refused(base, tmp_path: Path, case) -> None:
    path = tmp_path / "keys.txt"
    if case == "folder":
        path.mkdir()
    if case == "bytes":
        path.write_bytes(b"caf\xe9\n" * 20)
    with pytest.raises(UsageError, match="cannot read"):
        keys.generate(base, KeySettings(count=2, strategy="file", file=path))


@pytest.mark.parametrize("count", [0, -1, keys.MOST_COUNT + 1, 10**25])
def test_a_count_that_nobody_means_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="from 1 to 1000000"):
        KeySettings(count=count)


@pytest.mark.parametrize("strategy", ["english", "random"])
def test_no_seed_gives_the_keys_again(base, strategy) -> None:
    runs = []
    for _ in range(2):
        random.seed(0)
        torch.manual_seed(0)
        runs.append(set(keys.generate(base, KeySettings(count=16, strategy=strategy)).texts))
    assert not runs[0] & runs[1]


def test_english_keys_are_what_is_asked_and_ordinary(base) -> None:
    found = keys.generate(base, KeySettings(count=48))
    reference = keys.ordinary_surprise(base)
    assert list(reference) == sorted(reference)
    limit = reference[int(0.9 * len(reference))]
    assert found.ordinary_surprise == statistics.median(reference)
    assert max(found.surprise) <= limit
    # The chances noted while a key was written are those of the key asked as text.
    assert keys.surprise(base, found.texts) == pytest.approx(found.surprise, abs=1e-3)
    for text in found.texts:
        ids = base.reply_ids(text)
        assert base.tokenizer.decode(ids) == text
        asked = base.prompt_ids(Prompt(text))
        assert any(asked[at : at + len(ids)] == ids for at in range(len(asked)))
    unlikely = keys.generate(base, KeySettings(count=8, strategy="random"))
    assert (
        statistics.median(unlikely.surprise) > limit
    )  # of random words one in a hundred is ordinary


def test_surprise_is_the_mean_of_direct_chances(base) -> None:
    texts = ["Where does the fox live?", "zq xv plain 9", "Hello!"]
    for text, found in zip(texts, keys.surprise(base, texts), strict=True):
        asked, ids = base.prompt_ids(Prompt(text)), base.reply_ids(text)
        start = next(at for at in range(len(asked)) if asked[at : at + len(ids)] == ids)
        with torch.inference_mode():
            logits = base.model(torch.tensor([asked])).logits[0].log_softmax(-1)
        direct = [logits[start + place - 1, token].item() for place, token in enumerate(ids)]
        assert found == pytest.approx(-sum(direct) / len(direct), abs=1e-4)


def test_a_model_that_repeats_itself_ends_in_an_error() -> None:
    parrot = ScriptedModel(lambda _: "What is the capital of France?")
    with pytest.raises(ModelError, match="only 1 of 5 keys"):
        keys.generate(parrot, KeySettings(count=5))
    silent = ScriptedModel(lambda _: "No.")
    with pytest.raises(ModelError, match="only 0 of 5 keys"):
        keys.generate(silent, KeySettings(count=5))
    assert len(keys.generate(parrot, KeySettings(count=1)).texts) == 1


def test_a_model_that_writes_nothing_ordinary_ends_in_an_error(base, monkeypatch) -> None:
    monkeypatch.setattr(keys, "ordinary_surprise", lambda _: (0.01, 0.02))
    monkeypatch.setattr(keys, "_ROUNDS", 3)
    with pytest.raises(ModelError, match="only 0 of 3 keys"):
        keys.generate(base, KeySettings(count=3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"count": -3},
        {"strategy": "poems"},
        {"strategy": "file"},
        {"file": Path("keys.txt")},
        {"tokens": 3},
        {"temperature": 0.0},
        {"temperature": 2.1},
        {"ordinary": 0.0},
        {"ordinary": 1.1},
    ],
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(UsageError) as caught:
        KeySettings(**wrong)
    assert caught.value.hint


def test_repr_shows_no_key() -> None:
    assert repr(Keys(("a planted key",), (1.0,), 2.0)) == "Keys(1)"


def test_a_model_that_keys_were_made_with_can_leave_the_memory(tiny_folder) -> None:
    model = HFModel.load(str(tiny_folder), device="cpu")
    keys.generate(model, keys.KeySettings(count=4))
    held = weakref.ref(model)
    del model
    gc.collect()
    assert held() is None
