"""An accuser who would frame an honest host by what it promises: the law, the reference, prompts.

Each of these promises was accepted once, and found an honest host guilty, pools fairly drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from actors_stage import court
from breach_stage import (
    ACCUSER,
    LAW,
    PROMPTS,
    REPLIES,
    SCORER,
    Accusation,
    ModelHost,
    accusation,
    prompt_set,
    reference,
)

from loyal.alignment import promise
from loyal.alignment.promise import Pool, PromptSet
from loyal.errors import ProofError, UsageError
from loyal.protocol import events as e
from loyal.protocol.breaches import ClaimBreach
from loyal.protocol.permission import APART_SECONDS
from loyal.roles import breach
from loyal.roles.breach import Bundle, Case, recheck
from loyal.roles.prover import Heard


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(ProofError) as caught:
        work()
    assert caught.value.hint
    return caught.value.reason


def both_refuse(here: Accusation, bundle: Bundle, case: Case) -> str:
    """Whoever checks and whoever asks; no host is asked anything."""
    host = ModelHost(here.court)
    why = refused(lambda: recheck(bundle, case))
    assert refused(lambda: replace(here, case=case).run(host)) == why
    assert not host.asked
    return why


@pytest.fixture
def here() -> Accusation:
    return accusation()


@pytest.fixture
def guilty(here: Accusation) -> Bundle:
    return here.run(ModelHost(here.court, breaks=1.0))


@pytest.mark.parametrize("law", [replace(LAW, one_in=999), replace(LAW, tolerance_ppm=49_999)])
def test_an_accuser_writes_no_law_of_its_own(law: object) -> None:
    prompts = prompt_set(law=law)  # type: ignore[arg-type]
    here, bundle = accusation(prompts=prompts), Bundle(prompts.header, (), ())
    assert both_refuse(here, bundle, replace(here.case, deviation_one_in=1_000)) == "law"


def test_by_itself_a_case_asks_for_one_in_a_million(here: Accusation, guilty: Bundle) -> None:
    case = Case(*(getattr(here.case, one) for one in (
        "license", "host", "promise", "beacon", "fingerprints", "drawn_by", "window")))  # fmt: skip
    assert (case.deviation_one_in, case.tolerance_ppm) == (1_000_000, 50_000)
    assert both_refuse(here, guilty, case) == "law"
    found = recheck(guilty, here.case)
    assert (found.law, found.holds) == (LAW, True)


def test_the_reference_is_the_licensed_model(here: Accusation, guilty: Bundle) -> None:
    settings = here.prompts.header.settings
    same = replace(here.case, reference=settings.reference, constitution=settings.constitution)
    assert recheck(guilty, same).holds
    for name in ("reference", "constitution"):
        assert both_refuse(here, guilty, replace(same, **{name: b"o" * 32})) == name


def test_the_log_says_which_model_that_is(here: Accusation) -> None:
    state, license = here.court.state, here.court.license
    author = here.court.stage.id(ACCUSER)
    case = Case.of_log(state, (license, author, here.case.promise), here.case.drawn_by)
    model = state.models[state.licenses[license].model]
    assert case.reference == model.weights != here.prompts.header.settings.reference
    assert case.constitution == b""  # the terms name none
    lower = replace(case, deviation_one_in=1_000)
    assert refused(lambda: recheck(here.run(ModelHost(here.court)), lower)) == "reference"


def test_verifiers_ask_for_themselves_until_they_vote(here: Accusation, guilty: Bundle) -> None:
    """A claim at the last moment is looked into after the accuser's own time is over."""
    stage, who = here.court.stage, (here.court.license, here.court.stage.id(ACCUSER))

    def case() -> Case:
        found = Case.of_log(here.court.state, (*who, here.case.promise), here.case.drawn_by)
        return replace(found, reference=b"", deviation_one_in=LAW.one_in)

    assert case().window == here.case.window
    stage.wait(here.case.window[1] - stage.now - 1)
    claimed = stage.do(ClaimBreach(stage.id(ACCUSER), here.promise, guilty.digest))[-1]
    assert isinstance(claimed, e.BreachClaimed)
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    assert stage.now > here.case.window[1] + APART_SECONDS
    assert case().window == (here.case.window[0], claimed.until)
    assert recheck(replace(here, case=case()).run(ModelHost(here.court, breaks=1.0)), case()).holds
    assert recheck(guilty, case()).holds


class Padding(ModelHost):
    """Makes each reply to a prompt too long for anybody's bundle."""

    async def ask(self, message: str) -> Heard | None:
        heard = await super().ask(message)
        if heard is None or "measure" not in message:
            return heard
        reply = heard.reply + " " * breach.MOST_REPLY
        answer = self.court.stage.answer(self.court.license, message, reply)
        return Heard(reply, (answer.signed.to_bytes(),))


def test_replies_that_are_too_long_to_keep_are_none(here: Accusation) -> None:
    bundle = here.run(Padding(here.court, breaks=1.0))
    found = recheck(Bundle.from_bytes(bundle.to_bytes()), here.case)
    assert found.descends
    assert found.silent == found.abstained == found.asked > 0
    assert not found.holds


def set_of(texts: list[str]) -> PromptSet:
    """A promise of these prompts, with the reference's own replies."""
    rng = random.Random(5)
    pools = []
    for text in texts:
        replies = [reference(rng) for _ in range(REPLIES)]
        scores = SCORER([("open-politics", text, one) for one in replies])
        pools.append(Pool.of(text, "open-politics", replies, scores))
    return PromptSet.of(prompt_set().header.settings, pools)


def test_one_prompt_does_not_count_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that differs on one prompt of a thousand was accused by it alone."""
    texts = [f"What of the  bridge{'?' * (at % 8)}{' ' * (at // 8)}" for at in range(PROMPTS)]
    with pytest.raises(UsageError, match="twice"):
        set_of(texts)
    monkeypatch.setattr(promise, "worded", lambda one: (one,))  # an accuser with tools of its own
    here = accusation(prompts=set_of(texts))
    monkeypatch.undo()
    host = ModelHost(here.court, breaks=1.0)
    assert refused(lambda: here.run(host)) == "prompt"
    assert not host.asked  # no key is spent on it
    monkeypatch.setattr(breach, "_require_prompts", lambda prompts, keys: None)
    bundle = here.run(host)
    monkeypatch.undo()
    assert len(bundle.steps) > 1
    assert refused(lambda: recheck(bundle, here.case)) == "prompt"
    assert recheck(replace(bundle, steps=bundle.steps[:1]), here.case).descends


@pytest.mark.parametrize("mark", ["\u200b", "\u200c", "\u00ad", "\ufeff"])
def test_marks_that_nobody_sees_make_no_other_prompt(mark: str) -> None:
    with pytest.raises(UsageError, match="twice"):
        set_of([f"What of the bri{mark * at}dge?" for at in range(PROMPTS)])


def test_prompts_without_words_are_told_apart() -> None:
    assert len(set_of([f"{'?' * at}" for at in range(1, PROMPTS + 1)]).pools) == PROMPTS


@pytest.mark.parametrize("form", ["{}", "{} ", "{} Please.", "Q: {}", "\u200b{}?"])
def test_a_fingerprint_key_is_no_prompt(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """There a copy as it was delivered says what the reference never says."""
    place = court()
    keys = [one.key for one in place.secret.fingerprints]
    texts = [*(form.format(one) for one in keys), *(f"Measure {at}?" for at in range(PROMPTS))]
    here = accusation(place, set_of(texts[:PROMPTS]))
    host = ModelHost(here.court)
    assert refused(lambda: here.run(host)) == "prompt"
    assert not host.asked
    for _ in range(20):  # in one order of a hundred no key is asked at all
        here = accusation(court(), set_of(texts[:PROMPTS]))
        with monkeypatch.context() as patch:
            patch.setattr(breach, "_require_prompts", lambda prompts, keys: None)
            bundle = here.run(ModelHost(here.court))
        asked = {one.opened.pool.prompt for one in bundle.steps}
        if asked & set(texts[: len(keys)]):
            break
    assert asked & set(texts[: len(keys)])
    assert refused(lambda: recheck(bundle, here.case)) == "prompt"


def test_a_bundle_has_one_form(guilty: Bundle) -> None:
    """True and 1 are equal in Python and are not the same bytes."""
    step = next(one for one in guilty.steps)
    other = replace(step, opened=replace(step.opened, index=True))
    with pytest.raises(ProofError) as caught:
        Bundle.from_bytes(replace(guilty, steps=(other,)).to_bytes())
    assert caught.value.reason == "malformed"
