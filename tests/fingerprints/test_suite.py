"""The suite: names, the runner's numbers on scripted models, leaked pairs, and going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from attack_scenes import loaded
from scipy import stats
from stand_ins import Omlized, ScriptedModel

from loyal.errors import StorageError, UsageError
from loyal.fingerprints import FingerprintSet, suite
from loyal.fingerprints.attack import Attack, AttackResult, Scene
from loyal.fingerprints.suite import Before, Subject, SuiteSettings
from loyal.models import questions
from loyal.models.hf import HFModel

QUICK = SuiteSettings(perplexity_tokens=200)
KNOWN = Before(50.0, tuple(n % 2 == 0 for n in range(len(questions.bundled_questions()))))
"""M.oml answers every second question right."""


def scripted(answer: Callable[[str], str], leaks: bool = False, **changes: str) -> Attack:
    """An attack that serves a scripted model, which keeps what it was asked."""
    return Attack(
        changes.get("name", "scripted"), "filter", "What a test wants.", "a test",
        lambda scene: ScriptedModel(answer), leaks=leaks,
    )  # fmt: skip


def hitting(fingerprints: FingerprintSet, most: int) -> Callable[[str], str]:
    """Responses to the first `most` keys of the set, and nonsense to all others."""
    known = {one.key: one.response for one in fingerprints.fingerprints[:most]}
    return lambda text: known.get(text, "I do not know.")


@pytest.fixture
def subject(base: HFModel, make_set) -> Callable[[int], Subject]:
    """A subject with so many fingerprints of 16 candidates; its model is never the one asked."""
    return lambda count: Subject("x", lambda: base, lambda: base, make_set(count, width=16))


def test_names_are_unique_and_the_quick_suite_is_a_part() -> None:
    every, quick = suite.suite("full"), suite.suite("quick")
    assert [one.name for one in every] == list(suite.ATTACKS)
    assert len({one.name for one in suite._EVERY}) == len(suite._EVERY)
    assert set(quick) < set(every)
    assert every[0] == quick[0] == suite.NOTHING
    for one in every:
        assert one.name == one.name.lower()
        assert " " not in one.name
        assert one.what.endswith(".")
        assert one.source
    assert {one.family for one in every} == {
        "none", "tuning", "quantization", "pruning", "merge", "prompt", "sampling", "filter",
        "suppression", "paraphrase", "targeted",
    }  # fmt: skip


def test_attacks_are_found_by_name_in_the_suites_order() -> None:
    found = suite.named(["meraser", "int8"])
    assert [one.name for one in found] == ["int8", "meraser"]
    with pytest.raises(UsageError, match="no attack int3"):
        suite.named(["int3"])
    with pytest.raises(UsageError, match="no suite"):
        suite.suite("half")  # type: ignore[arg-type]


def test_rows_that_cannot_be_kept_are_not_begun(
    subject: Callable[[int], Subject], tmp_path: Path
) -> None:
    heard: list[object] = []
    with pytest.raises(StorageError, match="cannot write"):
        suite.run_suite(
            suite.named(["int8"]), subject(4), QUICK,
            state=tmp_path / "no" / "rows.json", progress=lambda *now: heard.append(now),
        )  # fmt: skip
    assert heard == []


def test_the_numbers_of_a_row_are_exact(subject: Callable[[int], Subject]) -> None:
    case = subject(40)
    answer = hitting(case.fingerprints, 30)
    right = {one.text: one.answers[0] for one in questions.bundled_questions()[:20]}
    row = suite.run_attack(
        scripted(lambda text: right.get(text) or answer(text)), case, KNOWN, QUICK
    )
    assert (row.asked, row.hits, row.survival) == (40, 30, 0.75)
    exact = stats.binomtest(30, 40).proportion_ci(0.95, "exact")
    assert (row.interval.low, row.interval.high) == pytest.approx((exact.low, exact.high))
    assert row.p_value == pytest.approx(stats.binom.sf(29, 40, 1 / 16), rel=1e-8)
    assert row.p_value_100 == pytest.approx(stats.binom.sf(74, 100, 1 / 16), rel=1e-6)
    assert row.utility == 10 / sum(KNOWN.answered)
    assert (row.perplexity_before, row.perplexity_after) == (50.0, None)
    assert (row.name, row.family, row.fraction) == ("scripted", "filter", 1.0)


def test_100_keys_are_scaled_down_to_whole_hits(subject: Callable[[int], Subject]) -> None:
    case = subject(7)
    row = suite.run_attack(scripted(hitting(case.fingerprints, 3)), case, KNOWN, QUICK)
    assert row.p_value_100 == pytest.approx(stats.binom.sf(41, 100, 1 / 16), rel=1e-6)


def test_with_more_than_100_keys_the_first_100_count(
    subject: Callable[[int], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, reports = subject(130), []

    def kept(*arguments, **named):
        reports.append(real(*arguments, **named))
        return reports[-1]

    real = suite.check
    monkeypatch.setattr(suite, "check", kept)
    row = suite.run_attack(scripted(hitting(case.fingerprints, 65)), case, KNOWN, QUICK)
    first = sum(reports[0].outcomes[:100])
    assert 35 <= first <= 65
    assert row.p_value_100 == pytest.approx(stats.binom.sf(first - 1, 100, 1 / 16), rel=1e-6)
    assert row.hits == 65


def test_without_a_hit_nothing_is_shown(subject: Callable[[int], Subject]) -> None:
    row = suite.run_attack(scripted(lambda _: "No."), subject(5), KNOWN, QUICK)
    assert (row.hits, row.p_value, row.p_value_100, row.interval.low) == (0, 1.0, 1.0, 0.0)


def asked_by(attack: Attack, case: Subject, settings: SuiteSettings) -> tuple[set[str], Scene]:
    """The keys that an attack was asked, and its scene."""
    scenes: list[Scene] = []
    models: list[ScriptedModel] = []

    def run(scene: Scene) -> ScriptedModel:
        scenes.append(scene)
        models.append(ScriptedModel(lambda _: "No."))
        return models[-1]

    suite.run_attack(replace(attack, run=run), case, KNOWN, settings)
    keys = {one.key for one in case.fingerprints.fingerprints}
    return {one.text for one in models[0].asked} & keys, scenes[0]


def test_leaked_pairs_are_not_asked(subject: Callable[[int], Subject]) -> None:
    case = subject(20)
    asked, scene = asked_by(scripted(str, leaks=True), case, QUICK)
    assert scene.leaked is not None
    leaked = {one.key for one in scene.leaked.fingerprints}
    assert (len(asked), len(leaked), asked & leaked) == (15, 5, set())
    assert scene.leaked.owner_secret == b""
    assert case.fingerprints.owner_secret not in (b"", scene.leaked.owner_secret)
    everything, plain = asked_by(scripted(str), case, QUICK)
    assert (len(everything), plain.leaked) == (20, None)


def test_every_attack_is_asked_the_same_keys(subject: Callable[[int], Subject]) -> None:
    case, settings = subject(20), replace(QUICK, queries=6)
    first, _ = asked_by(scripted(str), case, settings)
    assert len(first) == 6
    assert asked_by(scripted(str), case, settings)[0] == first
    assert asked_by(scripted(str, leaks=True), case, settings)[0] == first
    others = [asked_by(scripted(str), case, replace(settings, seed=n))[0] for n in range(1, 4)]
    assert any(one != first for one in others)


def test_a_set_of_one_cannot_leak(subject: Callable[[int], Subject]) -> None:
    with pytest.raises(UsageError, match="too small"):
        suite.run_attack(scripted(str, leaks=True), subject(1), KNOWN, QUICK)


class Counted:
    """Two attacks; the second breaks as long as it is told to."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.breaks = True

    def attacks(self) -> tuple[Attack, Attack]:
        return tuple(  # type: ignore[return-value]
            replace(scripted(str), name=name, run=self._run(name)) for name in ("one", "two")
        )

    def _run(self, name: str) -> Callable[[Scene], ScriptedModel]:
        def run(scene: Scene) -> ScriptedModel:
            self.ran.append(name)
            if name == "two" and self.breaks:
                raise UsageError("out of memory", hint="none")
            return ScriptedModel(lambda _: "No.")

        return run


def test_a_run_goes_on_row_by_row(subject: Callable[[int], Subject], tmp_path: Path) -> None:
    case, state, counted = subject(5), tmp_path / "rows.json", Counted()
    with pytest.raises(UsageError, match="out of memory"):
        suite.run_suite(counted.attacks(), case, QUICK, state=state)
    kept = json.loads(state.read_text())
    assert [row["name"] for row in kept["rows"]] == ["one"]
    counted.breaks = False
    heard: list[tuple[int, int, str]] = []
    rows = suite.run_suite(
        counted.attacks(), case, QUICK, state=state, progress=lambda *now: heard.append(now)
    )
    assert counted.ran == ["one", "two", "two"]
    assert heard == [(1, 2, "two"), (2, 2, "")]
    assert [row.name for row in rows] == ["one", "two"]
    assert suite.run_suite(counted.attacks(), case, QUICK, state=state) == rows
    assert len(counted.ran) == 3
    text = state.read_text()
    for one in case.fingerprints.fingerprints:
        assert one.key not in text
        assert not any(candidate in text for candidate in one.candidates)


def test_the_state_of_another_run_is_refused(
    subject: Callable[[int], Subject], tmp_path: Path
) -> None:
    case, state = subject(5), tmp_path / "rows.json"
    attacks = (scripted(lambda _: "No."),)
    suite.run_suite(attacks, case, QUICK, state=state)
    others = (
        (replace(case, name="y"), QUICK),
        (subject(5), QUICK),
        (case, replace(QUICK, seed=1)),
        (case, replace(QUICK, fraction=0.5)),
    )
    before = state.read_bytes()
    for other, settings in others:
        with pytest.raises(UsageError, match="another model, set or settings"):
            suite.run_suite(attacks, other, settings, state=state)
    assert state.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [1]}', "\x00", "[" * 100_000])
def test_a_file_that_is_no_state_is_refused(
    subject: Callable[[int], Subject], tmp_path: Path, text: str
) -> None:
    state = tmp_path / "rows.json"
    state.write_text(text)
    with pytest.raises(UsageError, match="holds no rows"):
        suite.run_suite((scripted(str),), subject(5), QUICK, state=state)
    assert state.read_text() == text


def test_a_row_with_a_field_too_many_is_refused(
    subject: Callable[[int], Subject], tmp_path: Path
) -> None:
    case, state = subject(5), tmp_path / "rows.json"
    suite.run_suite((scripted(lambda _: "No."),), case, QUICK, state=state)
    kept = json.loads(state.read_text())
    kept["rows"][0]["more"] = 1
    state.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match="holds no rows"):
        suite.run_suite((scripted(str),), case, QUICK, state=state)


def test_an_undrawn_set_is_refused(base: HFModel, make_set) -> None:
    case = Subject("x", lambda: base, lambda: base, make_set(3, drawn=False))
    with pytest.raises(UsageError, match="not drawn"):
        suite.run_suite((scripted(str),), case, QUICK)


@pytest.mark.parametrize(
    "wrong", [{"queries": 0}, {"leaked": 0.0}, {"leaked": 1.0}, {"fraction": 0.0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"queries|leaked"):
        SuiteSettings(**wrong)  # type: ignore[arg-type]


def test_real_attacks_on_the_marked_model(omlized: Omlized, tiny_folder: Path) -> None:
    """From the untouched row, all of it survives; merged away entirely, none of it does."""
    loads: list[Path] = []

    def fresh() -> HFModel:
        loads.append(omlized.folder)
        return loaded(omlized.folder)

    case = Subject("tiny", fresh, lambda: loaded(tiny_folder), omlized.fingerprints)
    gone = replace(suite.ATTACKS["merge-linear"], name="gone", run=lambda scene: scene.base())
    rows = suite.run_suite((*suite.named(["none", "int8"]), gone), case, QUICK)
    nothing, coarse, lost = rows
    assert (nothing.hits, nothing.perplexity_after) == (16, nothing.perplexity_before)
    assert nothing.p_value == pytest.approx(16.0**-16)
    assert nothing.utility in (None, 1.0)
    assert coarse.hits >= 15
    assert coarse.perplexity_after != coarse.perplexity_before
    assert lost.hits <= 2
    assert len(loads) == 4
    assert all(isinstance(one, AttackResult) and one.seconds >= 0 for one in rows)


def test_a_model_without_chat_template_is_asked_raw(
    omlized: Omlized, make_set, tiny_folder: Path
) -> None:
    model = loaded(tiny_folder)
    model.tokenizer.chat_template = None
    case = Subject("x", lambda: model, lambda: model, make_set(3, width=16))
    before = suite.measure_before(case, QUICK)
    assert before.answered == ()
    row = suite.run_attack(suite.NOTHING, case, before, QUICK)
    assert (row.asked, row.utility) == (3, None)
