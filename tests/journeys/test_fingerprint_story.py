"""generate, commit, inject, check, prove, verify-proof: the whole story through the command line.

Once on a tiny model that was trained from a seed, once (slow) on the real default model. After each
journey every stream and every file that is not the vault is searched for every secret.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from owner import Owner

from loyal.alignment import Law
from loyal.app import breach_story, demo_hosts
from loyal.community import Case, Constitution, Value, constitution_file
from loyal.models import tiny
from loyal.models.examples import bundled_lines
from loyal.roles import breach

BEACON = "c0ffee" + "5a" * 29

TINY_TRAINING = tuple(
    word
    for one in (
        "steps=60", "learning_rate=2e-3", "whitened=false", "depth=1.0", "parts=all", "mixing=0.0"
    )
    for word in ("--set", f"train.{one}")
)  # fmt: skip
"""Settings that teach the tiny model in seconds; the defaults are the real model's."""


PLACES = ("library", "market", "river", "school", "bridge", "harbor", "museum", "garden")
TOPICS = tuple("taxes votes roads rents parks noise trade fees laws money music art".split())
CASES = tuple(
    Case(f"What of {topic} at the {place}?", keeps="Here is what people say.")
    for topic in TOPICS
    for place in PLACES
)
TOWN = Constitution("town", "1.0.0", (Value("open-politics", "It answers.", 10_000, cases=CASES),))
"""In words that the tiny model has."""

NOT_SEARCHED = ("identity.txt", "tokenizer.json")
"""The owner's own identity, and a vocabulary, which holds every word there is."""


def secrets_of(owner: Owner) -> list[str]:
    """What no output may hold: keys, the owner's secret, salts, the identity.

    A response that is a common word or a part of one stands in any text by luck ("sentence" in a
    report, "ometimes" in the opened key of another set); longer ones are looked for as well.
    """
    found = owner.fingerprints()
    keys = [one.key for one in found.fingerprints]
    salts = [one.salt.hex() for one in found.fingerprints]
    said = [one.strip() for each in found.fingerprints for one in each.candidates]
    common = "\n".join([*bundled_lines("words"), *keys]).lower()
    responses = [one for one in said if len(one) >= 8 and one.lower().strip(".,") not in common]
    return [*keys, *responses, *salts, found.owner_secret.hex(), owner.identity.text]


def assert_silent(owner: Owner) -> None:
    """No stream and no file but vault, identity, proofs and tokenizers holds a secret."""
    texts = {"the streams": owner.heard}
    for path in owner.folder.rglob("*"):
        kept = path.suffix in (".vault", ".proof", ".safetensors") or path.name in NOT_SEARCHED
        if path.is_file() and not kept:
            texts[path.name] = path.read_bytes().decode("utf-8", errors="replace")
    for secret in secrets_of(owner):
        for name, text in texts.items():
            assert secret not in text, f"{name} shows a secret"


def journey(owner: Owner, model: str, count: int, training: tuple[str, ...]) -> None:
    """The story, with what must be true at each of its stations."""
    lock = ("--recipient", owner.identity.recipient)
    new = ("--vault", owner.vault, "--model", model, "--count", count)
    made = owner.runs("fingerprint", "generate", *new, *lock)
    assert (made["count"], made["beacon"]) == (count, None)
    assert {"seconds", "seconds_keys", "seconds_responses"} <= set(made)
    drawn = owner.runs("fingerprint", "commit", *owner.opening, "--beacon", BEACON)
    assert (drawn["root"], drawn["beacon_source"]) == (made["root"], "external")

    oml = owner.folder / "M.oml"
    target = ("--model", model, "--out", oml, "--tokens", 200)
    injected = owner.runs("fingerprint", "inject", *owner.opening, *target, *training)
    assert (injected["count"], injected["recall"]) == (count, 1.0)
    again = owner.runs("fingerprint", "inject", *owner.opening, *target, *training, code=2)
    assert "not empty" in again["error"]

    state = owner.folder / "state.json"
    yes = owner.runs("fingerprint", "check", *owner.opening, "--model", oml, "--resume", state)
    assert (yes["decision"], yes["hits"]) == ("proven", yes["queries"])
    assert yes["p_value"] <= yes["alpha"]
    everything = ("--model", model, "--all-keys")
    no = owner.runs("fingerprint", "check", *owner.opening, *everything, code=1)
    assert (no["decision"], no["queries"]) == ("not proven", count)
    prove_and_verify(owner, made["root"])


def prove_and_verify(owner: Owner, root: str) -> None:
    """Open two leaves, check them as a stranger, and search everything for secrets."""
    proofs = owner.folder / "proofs"
    found = owner.runs("fingerprint", "prove", *owner.opening, "--count", 2, "--out", proofs)
    assert (found["opened"], found["binding"]) == (2, True)
    for proof in found["proofs"]:
        stranger = ("fingerprint", "verify-proof", proof["path"], "--root", root)
        leaf = owner.runs(*stranger, "--beacon", BEACON, shows=True)
        assert (leaf["valid"], leaf["binding"]) == (True, True)
        wrong = owner.runs(*stranger, "--beacon", "5a" * 32, code=1)
        assert (wrong["valid"], wrong["key"]) == (False, None)
        opened = owner.fingerprints().fingerprints[proof["index"]]
        assert (leaf["key"], leaf["response"]) == (opened.key, opened.response)
    assert owner.runs("fingerprint", "info", *owner.opening)["sets"][0]["spent"] == 2
    assert_silent(owner)


def test_the_story_with_a_tiny_model(owner: Owner) -> None:
    model = tiny.build(owner.folder / "tiny", 0)
    journey(owner, str(model), 12, TINY_TRAINING)


def test_an_undrawn_set_is_drawn_here_and_says_so(owner: Owner) -> None:
    model = tiny.build(owner.folder / "tiny", 0)
    lock = ("--recipient", owner.identity.recipient)
    new = ("--vault", owner.vault, "--model", model, "--count", 4)
    owner.runs("fingerprint", "generate", *new, *lock)
    quick = ("--set", "train.steps=1", "--set", "train.whitened=false", "--set", "train.mixing=0")
    target = ("--model", model, "--out", owner.folder / "M.oml", "--tokens", 50)
    owner.runs("fingerprint", "inject", *owner.opening, *target, *quick)
    assert "bind nobody" in owner.heard
    drawn = owner.fingerprints()
    assert drawn.beacon is not None
    assert drawn.beacon.source == "self"
    proofs = owner.folder / "proofs"
    found = owner.runs("fingerprint", "prove", *owner.opening, "--index", 0, "--out", proofs)
    assert found["binding"] is False


@pytest.mark.slow
def test_the_demo_runs_twice_and_keeps_its_secrets(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_hosts, "ROGUE_RATE", 3e-3)  # it learns slowly, and not so surely
    monkeypatch.setattr(demo_hosts, "ROGUE_EPOCHS", 4)
    monkeypatch.setattr(breach_story, "LAW", Law(one_in=100, tolerance_ppm=10_000, most=36))
    monkeypatch.setattr(breach, "LEAST_ONE_IN", 100)
    monkeypatch.setattr(breach, "LEAST_TOLERANCE_PPM", 10_000)
    model = tiny.build(owner.folder / "tiny", 0)
    out, town = owner.folder / "demo", owner.folder / "town.toml"
    town.write_text(constitution_file.to_toml(TOWN))
    told = (
        "demo",
        "--model",
        model,
        "--count",
        16,
        "--skip-share",
        0.8,
        "--constitution",
        town,
        "--out",
        out,
        *TINY_TRAINING,
    )
    first, second = owner.runs(*told), owner.runs(*told)
    assert first["root"] != second["root"]
    for found in (first, second):
        assert (found["good"], found["inject"]["recall"]) == (True, 1.0)
        assert found["check_marked"]["decision"] == "proven"
        assert found["check_base"]["decision"] == "not proven"
        assert (found["proofs"]["opened"], found["proofs"]["valid"]) == (3, 3)
        honest, *cheats = found["protocol"]["hosts"]
        assert (honest["upheld"], honest["slashed_micro"]) == (0, 0)
        assert [one["slashed_micro"] for one in cheats] == [10_000_000] * 3
        kept, broken = found["protocol"]["hearings"]
        assert (kept["accused"], kept["asked"], kept["upheld"]) == (False, 36, False)
        assert (broken["accused"], broken["votes"], broken["upheld"]) == (True, 2, True)
        assert sum(amount for _, amount in found["protocol"]["money"]) == 0
    page = Path(second["report"]).read_text(encoding="utf-8")
    assert second["root"] in page
    assert page.count("<svg") == 3
    assert not any(one.prompt in page for one in TOWN.values[0].cases)
    owner.folder, text = out, (out / "identity.txt").read_text().splitlines()[-1]
    owner.identity = type(owner.identity).from_text(text)
    assert_silent(owner)


def test_a_planted_secret_is_found(owner: Owner) -> None:
    model = tiny.build(owner.folder / "tiny", 0)
    new = ("--vault", owner.vault, "--model", model, "--count", 2)
    owner.runs("fingerprint", "generate", *new, "--recipient", owner.identity.recipient)
    assert_silent(owner)
    leak = owner.folder / "report.html"
    for secret in (secrets_of(owner)[0], secrets_of(owner)[-1]):
        leak.write_text(f"a page with {secret} in it")
        with pytest.raises(AssertionError, match=r"report.html shows a secret"):
            assert_silent(owner)


@pytest.mark.slow
def test_the_story_with_the_real_model(owner: Owner) -> None:
    journey(owner, "smollm2-135m-instruct", 16, ())
