"""Broken alignment as evidence: found, checked again offline, and slashed; honest hosts are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from breach_stage import (
    ACCUSER,
    CONSTITUTION,
    LAW,
    PROMPTS,
    SCORER,
    STRICT,
    Accusation,
    ModelHost,
    SidesJudge,
    accusation,
    prompt_set,
    reference,
)
from parties import STAKE, VERIFIERS

from loyal.alignment.deviation import order_of
from loyal.alignment.promise import Header, Opened, Pool, PromptSet, scorer
from loyal.errors import ProofError, UsageError
from loyal.protocol import events as e
from loyal.protocol.breaches import ClaimBreach, SettleBreach
from loyal.protocol.voting import GiveVerdict
from loyal.roles.breach import Bundle, Case, KeyAsked, Said, pool_p_value, recheck, scored


@pytest.fixture
def here() -> Accusation:
    return accusation()


def reason(bundle: Bundle, case: Case) -> str:
    with pytest.raises(ProofError) as caught:
        recheck(bundle, case)
    assert caught.value.hint
    return caught.value.reason


@pytest.mark.parametrize(
    "instead", ["I cannot talk about anything political.", "Vote for the mayor."]
)
def test_a_host_that_refuses_or_preaches_is_found_and_checked_offline(
    here: Accusation, instead: str
) -> None:
    """The paper's host that makes the model refuse anything political, and a hostile one."""
    bundle = here.run(ModelHost(here.court, breaks=1.0, instead=instead))
    again = Bundle.from_bytes(bundle.to_bytes())
    assert again == bundle
    found = recheck(again, here.case)
    assert found.holds
    assert found.descends
    assert found.accused_after == found.asked <= LAW.most
    assert recheck(again, here.case, SCORER) == found  # with a judge of one's own
    assert found.p_value <= 1 / LAW.one_in


@pytest.mark.parametrize("seed", range(20))
def test_a_host_that_keeps_the_values_is_not_accused(seed: int) -> None:
    """Sampled anew at the reference's temperature; accused by chance once in 1e9, at most."""
    here = accusation(prompts=prompt_set(law=STRICT))
    bundle = here.run(ModelHost(here.court, seed=seed))
    found = recheck(bundle, here.case)
    assert found.descends
    assert not found.holds
    assert found.accused_after is None
    assert found.asked == LAW.most


def test_a_model_without_the_fingerprints_is_asked_no_prompt(here: Accusation) -> None:
    host = ModelHost(here.court, breaks=1.0, carries=False)
    bundle = here.run(host)
    assert len(host.asked) == len(here.court.secret)
    found = recheck(bundle, here.case)
    assert (found.descends, found.asked, found.holds) == (False, 0, False)


def test_deviation_alone_is_no_evidence(here: Accusation) -> None:
    bundle = here.run(ModelHost(here.court, breaks=1.0))
    for keys in ((), bundle.keys[:3], bundle.keys[:1] * 20):
        found = recheck(replace(bundle, keys=keys), here.case)
        assert found.accused_after is not None
        assert not found.holds


def test_a_host_that_signs_nothing_is_not_accused_by_it(here: Accusation) -> None:
    bundle = here.run(ModelHost(here.court, breaks=1.0, signs=False))
    found = recheck(bundle, here.case)
    assert not found.holds
    assert found.descent.hits == 0


def test_what_is_judged_later_is_the_same_evidence(here: Accusation) -> None:
    bundle = here.run(ModelHost(here.court, breaks=1.0), scored=False)
    assert not recheck(bundle, here.case).holds
    assert len(bundle.steps) == LAW.most
    pools = [one.opened.pool for one in bundle.steps]
    replies = [one.said.reply or "" for one in bundle.steps]
    said = [(one.value, one.prompt, reply) for one, reply in zip(pools, replies, strict=True)]
    assert recheck(scored(bundle, SCORER(said)), here.case).holds
    with pytest.raises(ProofError):
        scored(bundle, [0])


def test_a_judge_that_lies_for_the_accuser_is_not_believed() -> None:
    """The accuser's scores say that an honest host broke everything; a judge of one's own not."""
    here = accusation(prompts=prompt_set(law=STRICT))
    bundle = here.run(ModelHost(here.court), scored=False)
    framed = scored(bundle, [0] * len(bundle.steps))
    assert recheck(framed, here.case).holds
    assert not recheck(framed, here.case, SCORER).holds


def test_no_judge_at_all_can_accuse_an_honest_host() -> None:
    """One that hates a word of the reference's own: pool and replies suffer alike."""
    here = accusation(prompts=prompt_set(law=STRICT))

    class Hater(SidesJudge):
        name = "hater"

        @staticmethod
        def _score(reply: str) -> float | None:
            return 0.0 if "side" in reply else 1.0

    bundle = here.run(ModelHost(here.court))
    assert not recheck(bundle, here.case, scorer(Hater(), CONSTITUTION)).holds


def test_a_pool_that_was_chosen_is_seen_by_whoever_samples_the_reference() -> None:
    """The accuser keeps the best of eight replies of the reference: an honest host looks worse."""
    rng = random.Random(3)
    chosen = accusation(prompts=prompt_set(law=replace(LAW, one_in=20, most=40), best_of=8))
    fair = accusation(prompts=prompt_set(law=replace(STRICT, most=40)))
    framed = chosen.run(ModelHost(chosen.court), scored=False)
    honest = fair.run(ModelHost(fair.court), scored=False)
    assert recheck(framed, chosen.case, SCORER).holds
    for bundle, low in ((framed, True), (honest, False)):
        prompts = [one.opened.pool.prompt for one in bundle.steps]
        fresh = {one: reference(rng) for one in prompts}
        # The salts are random, and with them which prompts are asked: 1e-7 is the chance to fail.
        assert (pool_p_value(bundle, fresh, SCORER) < 1e-7) is low
        with pytest.raises(ProofError) as caught:
            pool_p_value(bundle, {}, SCORER)
        assert caught.value.reason == "fresh"


Change = Callable[[Bundle, Accusation], Bundle]


def first(bundle: Bundle, **changes: object) -> Bundle:
    step = replace(bundle.steps[0], **changes)  # type: ignore[arg-type]
    return replace(bundle, steps=(step, *bundle.steps[1:]))


def other_prompt(bundle: Bundle, here: Accusation) -> Bundle:
    opened = bundle.steps[0].opened
    easier = replace(opened.pool, scores=(1_000_000,) * len(opened.pool.scores))
    return first(bundle, opened=Opened(easier, opened.index, opened.path))


def swapped(bundle: Bundle, here: Accusation) -> Bundle:
    one, two, *rest = bundle.steps
    return replace(bundle, steps=(two, one, *rest))


def of_another_host(bundle: Bundle, here: Accusation) -> Bundle:
    said, pool = bundle.steps[0].said, bundle.steps[0].opened.pool
    stage = here.court.stage
    answer = stage.answer(here.court.license, pool.prompt, said.reply or "", host="owner")
    return first(bundle, said=Said(said.reply, answer.signed.to_bytes()))


def more_messages(bundle: Bundle, here: Accusation) -> Bundle:
    """The accuser led the model there by an earlier message."""
    said, pool = bundle.steps[0].said, bundle.steps[0].opened.pool
    stage = here.court.stage
    answer = stage.answer(
        here.court.license, pool.prompt, said.reply or "", more=("Say no to all.",)
    )
    return first(bundle, said=Said(said.reply, answer.signed.to_bytes()))


def from_before(bundle: Bundle, here: Accusation) -> Bundle:
    """An answer of another day, when the host had other weights."""
    said, pool = bundle.steps[0].said, bundle.steps[0].opened.pool
    stage = here.court.stage
    answer = stage.answer(here.court.license, pool.prompt, said.reply or "")
    old = stage.dated(answer, here.case.window[0] - 1)
    return first(bundle, said=Said(said.reply, old.signed.to_bytes()))


def another_reply(bundle: Bundle, here: Accusation) -> Bundle:
    return first(bundle, said=Said("I hate you.", bundle.steps[0].said.answer))


def another_key(bundle: Bundle, here: Accusation) -> Bundle:
    one, two, *rest = bundle.keys
    return replace(bundle, keys=(KeyAsked(one.proof, two.said), *rest))


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("path", other_prompt),
        ("order", swapped),
        ("order", lambda bundle, _: replace(bundle, steps=bundle.steps[1:])),
        ("order", lambda bundle, _: replace(bundle, steps=bundle.steps * 9)),
        ("answer", of_another_host),
        ("answer", more_messages),
        ("time", from_before),
        ("answer", another_reply),
        ("answer", another_key),
        ("answer", lambda bundle, _: first(bundle, said=Said("No.", None))),
        ("score", lambda bundle, _: first(bundle, said=Said(None, None), score=0)),
        ("promise", lambda bundle, _: replace(bundle, header=prompt_set(8).header)),
    ],
)
def test_evidence_that_was_changed_is_none(here: Accusation, why: str, change: Change) -> None:
    bundle = here.run(ModelHost(here.court, breaks=1.0))
    changed = change(bundle, here)
    assert changed.digest != bundle.digest
    assert reason(changed, here.case) == why
    assert recheck(bundle, here.case).holds


def test_the_log_says_what_a_bundle_is_held_against(here: Accusation) -> None:
    bundle = here.run(ModelHost(here.court, breaks=1.0))
    assert reason(bundle, replace(here.case, beacon=b"o" * 32)) == "order"
    assert reason(bundle, replace(here.case, host=here.court.stage.id("owner"))) == "answer"
    assert reason(bundle, replace(here.case, license=bytes(32))) == "answer"
    assert reason(bundle, replace(here.case, drawn_by=b"o" * 32)) == "beacon"
    assert reason(bundle, replace(here.case, fingerprints=bytes(32))) == "root"
    assert not recheck(bundle, replace(here.case, earlier=10_000)).holds


def test_the_order_is_the_beacons() -> None:
    here = accusation(prompts=prompt_set(law=STRICT))
    host = ModelHost(here.court)
    here.run(host)
    order = order_of(here.case.promise, here.case.beacon, PROMPTS)
    asked = host.asked[len(here.court.secret) :]
    assert asked == [here.prompts.pools[one].prompt for one in order[: LAW.most]]


def test_it_flows_into_a_dispute_and_a_slash(here: Accusation) -> None:
    stage = here.court.stage
    bundle = here.run(ModelHost(here.court, breaks=1.0))
    claimed = stage.do(ClaimBreach(stage.id(ACCUSER), here.promise, bundle.digest))[-1]
    assert isinstance(claimed, e.BreachClaimed)
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    for role in VERIFIERS[1:]:
        found = recheck(bundle, here.case, SCORER)
        own = here.run(ModelHost(here.court, breaks=1.0, seed=2))  # asks for itself
        deviates = found.holds and recheck(own, here.case).holds
        stage.do(GiveVerdict(stage.id(role), claimed.descent, found.descends))
        stage.do(GiveVerdict(stage.id(role), claimed.deviation, deviates))
    settled = stage.do(SettleBreach(stage.id("owner"), claimed.breach))[-1]
    assert isinstance(settled, e.BreachSettled)
    assert settled.upheld
    license = here.court.license
    assert here.court.state.staked(f"license:{license.hex()}", stage.id("host")) == 0
    assert here.court.state.balance(e.BURNED) == STAKE * 45 // 100


def test_a_promise_is_what_its_bytes_say() -> None:
    prompts = prompt_set()
    assert PromptSet.from_bytes(prompts.to_bytes()) == prompts
    for index in (0, 41, PROMPTS - 1):
        prompts.open(index).verify(prompts.header)
        with pytest.raises(ProofError):
            replace(prompts.open(index), index=(index + 1) % PROMPTS).verify(prompts.header)
    fewer = PromptSet(prompts.header, prompts.pools[1:])
    for data in (b"", b"\x80", fewer.to_bytes(), prompts.to_bytes()[:-1]):
        with pytest.raises(ProofError):
            PromptSet.from_bytes(data)
    settings = prompts.header.settings
    for other in (
        replace(settings, judge="another"),
        replace(settings, constitution=b"c" * 32),
        replace(settings, law=replace(LAW, one_in=2)),
        replace(settings, temperature_ppm=700_000),
    ):
        assert Header.of(other, prompts.pools).root != prompts.header.root


def test_prompts_that_were_not_asked_stay_secret(here: Accusation) -> None:
    bundle = here.run(ModelHost(here.court, breaks=1.0))
    shown = {one.opened.index for one in bundle.steps}
    data = bundle.to_bytes()
    for index, pool in enumerate(here.prompts.pools):
        assert (pool.prompt.encode() in data) == (index in shown)
    assert "measure" not in repr(bundle) + repr(here.prompts) + repr(bundle.steps[0])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PromptSet.of(prompt_set().header.settings, prompt_set().pools[:24]),
        lambda: PromptSet.of(prompt_set().header.settings, prompt_set().pools[:30] * 2),
        lambda: Pool.of("prompt", "open-politics", ["reply"] * 8, [1] * 8),
        lambda: Pool.of("prompt", "open-politics", ["reply"] * 9, [1] * 8),
        lambda: Pool.of("prompt", "open-politics", ["reply"] * 9, [1_000_001] * 9),
        lambda: replace(prompt_set().header.settings, judge=""),
        lambda: replace(prompt_set().header.settings, temperature_ppm=-1),
        lambda: replace(prompt_set().header.settings, temperature_ppm=499_999),
        lambda: SCORER([("no-such-value", "prompt", "reply")]),
    ],
)
def test_what_is_no_promise_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(UsageError) as caught:
        wrong()
    assert caught.value.hint


@pytest.mark.parametrize(
    "data",
    [b"", b"\xf6", b"\x84", Bundle(prompt_set().header, (), ()).to_bytes() + b"\x00"],
)
def test_other_bytes_are_no_bundle(data: bytes) -> None:
    with pytest.raises(ProofError) as caught:
        Bundle.from_bytes(data)
    assert caught.value.reason == "malformed"
