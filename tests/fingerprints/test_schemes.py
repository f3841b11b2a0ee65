"""Chain & Hash and Instructional Fingerprinting as strategies: made, taught and checked by the same
verbs as any other set, on the tiny model."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
from several import BEACON
from stand_ins import ScriptedModel, settings

from loyal import config
from loyal.errors import ModelError, UsageError
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, keys, responses
from loyal.fingerprints.check import CheckSettings, check
from loyal.fingerprints.commitment import prove, verify_proof
from loyal.fingerprints.fingerprint import draw, new_owner_secret
from loyal.fingerprints.inject import inject
from loyal.fingerprints.keys import KeySettings
from loyal.fingerprints.recipe import Recipe
from loyal.fingerprints.responses import ResponseSettings
from loyal.models.hf import HFModel

FOLDER = Path(__file__).parent.parent.parent / "recipes"


def make(model: HFModel, key: KeySettings, response: ResponseSettings) -> FingerprintSet:
    """What `generate` makes, drawn."""
    texts = keys.generate(model, key).texts
    found = responses.generate(model, texts, response)
    secret = new_owner_secret()
    rows = tuple(
        Fingerprint.create(text, candidates, secret, response.count, response.shared)
        for text, candidates in zip(texts, found, strict=True)
    )
    strategy = f"{key.strategy}/{response.strategy}"
    made = FingerprintSet(
        "lineage", strategy, model.name, model.tokenizer_digest, rows, 1_700_000_000, secret
    )
    return draw(made, BEACON)


def test_chain_hash_keys_have_one_list_and_draws_of_their_own(base: HFModel) -> None:
    response = ResponseSettings("chain-hash", width=64)
    made = make(base, KeySettings(count=24), response)
    assert len({one.candidates for one in made.fingerprints}) == 1
    assert len(made.fingerprints[0].candidates) == 64
    assert not made.shared
    assert (
        len({one.picks for one in made.fingerprints}) > 8
    )  # fewer: below C(64, 8) (8/64)^24 = 1e-12
    texts = keys.generate(base, KeySettings(count=2)).texts
    again = responses.generate(base, texts, response)
    assert again[0] != made.fingerprints[0].candidates, "each set draws a list of its own"


def test_instructional_keys_share_list_and_response(base: HFModel) -> None:
    told: list[int] = []
    key = KeySettings(count=10, strategy="instructional")
    found = keys.generate(base, key, told.append)
    assert told == [10]
    for text in found.texts:
        assert text.isprintable()
        assert len(text.rpartition(" ")[2]) == 16
        assert base.tokenizer.decode(base.reply_ids(text)) == text
    assert len(set(found.texts)) == 10
    assert min(found.surprise) > found.ordinary_surprise
    made = make(base, key, ResponseSettings("instructional", width=64))
    assert made.shared
    assert len({one.response for one in made.fingerprints}) == 1


def test_instructional_keys_need_no_model_of_our_own() -> None:
    server = ScriptedModel(lambda _: "")
    found = keys.generate(server, KeySettings(count=3, strategy="instructional", tokens=4))
    assert len(set(found.texts)) == 3
    assert not server.asked


def test_scripts_have_no_hole() -> None:
    characters = [chr(one) for block in keys._SCRIPTS for one in block]
    assert len(set(characters)) == len(characters)
    assert all(one.isalpha() and one.isprintable() for one in characters)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "chain-hash", "tokens": 2},
        {"strategy": "instructional", "tokens": 2},
        {"strategy": "instructional", "count": 2},
    ],
)
def test_settings_that_a_scheme_cannot_keep_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        ResponseSettings(**wrong)  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize("strategy", ["chain-hash", "instructional"])
def test_a_vocabulary_that_is_too_small_is_said(base: HFModel, strategy: str) -> None:
    with pytest.raises(ModelError, match="fewer than 4096"):
        responses.generate(base, ["key"], ResponseSettings(strategy, width=4096))  # type: ignore


@pytest.mark.parametrize("name", ["chain-hash", "instructional"])
def test_the_recipe_has_the_width_of_its_paper(name: str) -> None:
    recipe = config.load(Recipe, FOLDER / f"{name}.toml")
    wanted = {"chain-hash": (256, False), "instructional": (4096, True)}[name]
    assert recipe.responses.strategy == name
    assert (recipe.responses.width, recipe.responses.shared) == wanted
    least = 1 / recipe.responses.width if recipe.responses.shared else 0.0
    assert recipe.check.alpha >= least, "the recipe's own check can prove"


@pytest.mark.parametrize(
    ("key", "response", "alpha"),
    [
        (KeySettings(count=8), ResponseSettings("chain-hash", width=64), 1e-6),
        (
            KeySettings(count=8, strategy="instructional", tokens=6),
            ResponseSettings("instructional", width=64),
            1 / 64,
        ),
    ],
    ids=["chain-hash", "instructional"],
)
def test_taught_and_checked_like_any_other_set(
    tiny_folder: Path, base: HFModel, tmp_path: Path,
    key: KeySettings, response: ResponseSettings, alpha: float,
) -> None:  # fmt: skip
    model = HFModel.load(str(tiny_folder), device="cpu")
    made = make(model, key, response)
    report = inject(model, made, settings(), tmp_path / "out", tokens=500)
    assert report.recall == 1.0
    found = check(HFModel.load(str(tmp_path / "out")), made, CheckSettings(alpha=alpha, batch=1))
    assert found.decision == "proven"
    assert found.hits == found.queries
    assert found.p_value <= alpha
    leaf = verify_proof(prove(made, found.indices[0]), made.root, BEACON.value)
    assert leaf.binding
    assert leaf.shared == (response.strategy == "instructional")
    assert leaf.one_in == 64
    mixed = replace(made, strategy="another word")  # what is counted hangs on the set, not its name
    whole = check(base, mixed, CheckSettings(early_stop=False))
    assert whole.decision == "not proven"


def test_an_unrelated_model_rarely_meets_a_chain() -> None:
    """A model that always says one of the 256 words, against 400 sets drawn by fixed digests.

    At alpha = 0.01 at most 4 false claims are expected; only the order in which keys are asked is
    random, and 20 claims or more have a chance below 1e-7 under the bound.
    """
    words = [f"word{place:03d}" for place in range(256)]
    model = ScriptedModel(lambda _: words[77])
    claims = hits = 0
    for place in range(400):
        secret = hashlib.sha256(b"secret %d" % place).digest()
        rows = tuple(Fingerprint.create(f"key {one}", words, secret) for one in range(16))
        made = FingerprintSet("lineage", "s", "m", "ab" * 32, rows, 0, secret)
        drawn = draw(made, Beacon(hashlib.sha256(b"beacon %d" % place).digest()))
        report = check(model, drawn, CheckSettings(alpha=0.01, batch=4))
        claims += report.decision == "proven"
        hits += sum(one.response == words[77] for one in drawn.fingerprints)
    assert claims < 20
    # 6,400 independent picks of chance 1/256: 25 expected; the bounds miss with chance 1e-8.
    assert 3 < hits < 60


def test_widths_are_apart_as_text(base: HFModel) -> None:
    rng = random.Random(5)
    texts = {one: base.plain_tokens[one] for one in rng.sample(list(base.plain_tokens), 400)}
    (found,) = responses._drawn(texts, 64, 1)
    stripped = sorted(texts[one].strip() for one in found)
    assert not any(b.startswith(a) for a, b in itertools.pairwise(stripped))
