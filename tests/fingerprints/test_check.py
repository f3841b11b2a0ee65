"""Checks: a marked model is proven, chance is not, no key is asked twice, and nothing leaks."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from scipy.stats import binom
from stand_ins import ScriptedModel, secret_set

from loyal.errors import EndpointError, StorageError, UsageError
from loyal.fingerprints import FingerprintSet
from loyal.fingerprints.check import Asked, CheckSettings, check, expected_power
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling

FIXED = CheckSettings(early_stop=False)


def owner_like(fingerprints: FingerprintSet, share: float = 1.0, **more) -> ScriptedModel:
    """A server that gives the responses of the first `share` of the keys."""
    known = {one.key: one.response for one in fingerprints.fingerprints}
    kept = dict(list(known.items())[: round(share * len(known))])
    return ScriptedModel(lambda text: f"  {kept.get(text, 'I cannot say.')}, of course", **more)


def test_a_marked_model_is_proven_and_its_base_is_not(base, omlized) -> None:
    marked = HFModel.load(str(omlized.folder), device="cpu")
    for how in (CheckSettings(), FIXED, CheckSettings(temperature=0.5, early_stop=False)):
        found = check(marked, omlized.fingerprints, how)
        assert found.decision == "proven"
        assert found.p_value <= 1e-6
        assert found.interval.low > 1 / 16
        unmarked = check(base, omlized.fingerprints, how)
        assert unmarked.decision == "not proven"
        assert unmarked.queries == 16
        assert unmarked.p_value > 1e-5


def test_a_server_is_checked_by_its_replies_alone(family) -> None:
    server = owner_like(family)
    assert isinstance(server, LanguageModel)
    found = check(server, family, CheckSettings())
    assert (found.decision, found.model) == ("proven", "a-server")
    assert check(owner_like(family, 0.0), family, CheckSettings()).decision == "not proven"


def test_no_random_owner_is_proven_on_a_model_without_its_set(base, omlized) -> None:
    prints = omlized.fingerprints.fingerprints
    keys, candidates = [one.key for one in prints], [one.candidates for one in prints]
    replies = base.generate([Prompt(key) for key in keys], Sampling(max_tokens=8))
    said = dict(zip(keys, (one.text for one in replies), strict=True))
    rng = random.Random(7)
    guesses = dict(zip(keys, (rng.choice(texts) for texts in candidates), strict=True))
    for table in (said, guesses):
        loose = 0
        for _ in range(200):
            mine = secret_set(base, keys, candidates)
            model = ScriptedModel(table.__getitem__)
            assert check(model, mine, CheckSettings()).decision == "not proven"
            loose += check(model, mine, CheckSettings(alpha=0.05)).decision == "proven"
        # P(Binomial(200, 0.05) > 26) is 1e-5: even who guesses among the candidates errs seldom.
        assert loose <= 26
    assert check(ScriptedModel(said.__getitem__), omlized.fingerprints, FIXED).p_value > 1e-5


def test_early_stopping_stops_and_fixed_size_does_not(family) -> None:
    early = check(owner_like(family), family, CheckSettings(batch=1))
    assert 4 <= early.queries <= 8
    assert early.p_values[-1] == early.p_value <= 1e-6 < early.p_values[-2]
    assert check(owner_like(family), family, CheckSettings(batch=8)).queries == 8
    fixed = check(owner_like(family), family, CheckSettings(early_stop=False, queries=25))
    assert fixed.queries == len(fixed.indices) == len(fixed.p_values) == 25


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_the_p_value_of_a_fixed_size_is_the_binomial_tail(family, share) -> None:
    found = check(owner_like(family, share), family, FIXED)
    assert found.hits == sum(found.outcomes) == round(share * 40)
    assert found.p_value == pytest.approx(binom.sf(found.hits - 1, 40, 1 / 16), rel=1e-9)
    assert found.decision == ("proven" if found.p_value <= 1e-6 else "not proven")


def test_keys_are_asked_once_each_in_an_order_nobody_can_foresee(family) -> None:
    orders = set()
    for _ in range(3):
        random.seed(0)
        server = owner_like(family)
        found = check(server, family, FIXED)
        asked = [one.text for one in server.asked]
        assert len(set(asked)) == len(asked) == 40
        assert asked == [family.fingerprints[index].key for index in found.indices]
        orders.add(found.indices)
    assert len(orders) == 3


def test_a_check_that_was_cut_off_goes_on_and_asks_no_key_twice(family, tmp_path: Path) -> None:
    state = tmp_path / "check.json"
    first = owner_like(family, 0.5, breaks_after=16)
    told: list[Asked] = []
    with pytest.raises(EndpointError):
        check(first, family, FIXED, state=state, on_asked=told.append)
    assert len(told) == len(first.asked) == 16

    second = owner_like(family, 0.5)
    found = check(second, family, FIXED, state=state, on_asked=told.append)
    texts = [one.text for one in (*first.asked, *second.asked)]
    assert len(texts) == len(set(texts)) == found.queries == 40
    assert found.hits == 20
    assert [(one.index, one.hit) for one in told] == list(
        zip(found.indices, found.outcomes, strict=True)
    )
    third = owner_like(family, 0.5)
    again = check(third, family, FIXED, state=state, unspent=[])
    assert (again.hits, again.p_value, third.asked) == (20, found.p_value, [])
    other = owner_like(family, 0.5)
    check(other, family, FIXED, state=tmp_path / "other.json")
    assert len(other.asked) == 40


def test_the_state_file_holds_no_secret_and_is_written_first(family, tmp_path: Path) -> None:
    state = tmp_path / "check.json"
    seen: list[int] = []

    def on_asked(one: Asked) -> None:
        record = json.loads(state.read_text())
        assert [one.index, one.hit] in record["asked"]
        seen.append(one.index)

    found = check(owner_like(family, 0.5), family, FIXED, state=state, on_asked=on_asked)
    assert tuple(seen) == found.indices
    text = state.read_text()
    assert "planted" not in text
    assert family.owner_secret.hex() not in text
    assert state.stat().st_mode & 0o077 == 0


def test_a_state_that_cannot_be_kept_costs_no_key(family, tmp_path: Path) -> None:
    for state in (tmp_path / "no" / "check.json", tmp_path):
        server = owner_like(family)
        with pytest.raises(StorageError, match="cannot write"):
            check(server, family, FIXED, state=state)
        assert server.asked == []


def test_the_state_of_another_set_or_model_is_refused(family, make_set, tmp_path: Path) -> None:
    state = tmp_path / "check.json"
    check(owner_like(family), family, FIXED, state=state)
    before = state.read_bytes()
    other = make_set(40, "lineage", 16)
    for model, mine in (
        (owner_like(other), other),
        (owner_like(family, name="another-server"), family),
    ):
        with pytest.raises(UsageError, match="another set or model"):
            check(model, mine, FIXED, state=state)
        assert model.asked == []
    assert state.read_bytes() == before


@pytest.mark.parametrize(
    "asked",
    [
        "[[0, true], [0, true]]",
        '[["0", true]]',
        "[[0, 1]]",
        '["01"]',
        "[[0]]",
        "7",
        "[[0.5, true]]",
        "[" * 100_000,
        None,
    ],
)
def test_a_damaged_state_is_refused(family, tmp_path: Path, asked) -> None:
    state = tmp_path / "check.json"
    good = f'{{"version": 1, "set": "{family.id}", "model": "a-server", "asked": ASKED}}'
    server = owner_like(family)
    state.write_text(good.replace("ASKED", asked) if asked else "\x00 half a rec")
    with pytest.raises(UsageError, match="not the state") as caught:
        check(server, family, FIXED, state=state)
    assert caught.value.hint
    assert server.asked == []
    state.write_text(good.replace("ASKED", "[[0, true], [39, false]]"))
    found = check(server, family, FIXED, state=state)
    assert found.indices[:2] == (0, 39)
    state.write_text(good.replace("ASKED", "[[40, true]]"))
    with pytest.raises(UsageError, match="another set"):
        check(server, family, FIXED, state=state)


def test_only_unspent_keys_are_asked(family) -> None:
    server = owner_like(family)
    found = check(server, family, FIXED, unspent=[3, 5, 5, 8])
    assert sorted(found.indices) == [3, 5, 8]
    assert {one.text for one in server.asked} == {family.fingerprints[i].key for i in (3, 5, 8)}
    for foreign in ([40], [-1]):
        with pytest.raises(UsageError, match="no such key"):
            check(server, family, FIXED, unspent=foreign)
    with pytest.raises(UsageError, match="spent") as caught:
        check(server, family, FIXED, unspent=[])
    assert caught.value.hint
    assert len(server.asked) == 3


def test_an_undrawn_set_is_refused(make_set) -> None:
    server = ScriptedModel(str)
    with pytest.raises(UsageError, match="not drawn"):
        check(server, make_set(drawn=False), CheckSettings())
    assert server.asked == []


def test_the_report_shows_no_key_reply_or_response(family) -> None:
    found = check(owner_like(family, 0.5), family, FIXED)
    assert "planted" not in repr(found)
    assert "cannot say" not in repr(found)
    assert found.strategy == "by hand"


def test_a_server_is_asked_as_the_settings_say(family, make_set) -> None:
    server = owner_like(family)
    check(server, family, CheckSettings(temperature=0.7, tokens=5, system="Be brief."))
    assert {(one.temperature, one.max_tokens) for one in server.samplings} == {(0.7, 5)}
    assert {(one.system, one.raw) for one in server.asked} == {("Be brief.", False)}
    raw = owner_like(family)
    check(raw, family, CheckSettings(raw=True))
    assert {(one.system, one.raw) for one in raw.asked} == {(None, True)}


def test_long_responses_are_given_room(family) -> None:
    from dataclasses import replace

    longer = replace(family, settings={"response_tokens": 24})
    server = owner_like(longer)
    check(server, longer, CheckSettings())
    assert {one.max_tokens for one in server.samplings} == {24}


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"queries": 0}, {"batch": 0}, {"batch": -1}]
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(UsageError) as caught:
        CheckSettings(**wrong)
    assert caught.value.hint


def test_power_says_what_to_expect(family, omlized) -> None:
    assert expected_power(family, 1e-6, 0.6) > 0.99
    assert expected_power(family, 1e-6, 1 / 16) <= 1e-6
    assert expected_power(omlized.fingerprints, 1e-6, 1.0) == 1.0
