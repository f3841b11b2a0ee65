"""Best-first search: reasons reach the next draft, budgets hold, certificates check again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from loyal.control.checkers import checker
from loyal.control.propose import Budget, Certificate, extracted, propose, recheck
from loyal.errors import ControlError, UsageError
from loyal.models.language_model import Prompt, Reply, Sampling

CASES = [{"call": f"f({x})", "equals": x * x} for x in (2, 3, 5)]
SPEC = {"kind": "program", "cases": CASES}
TASK = "Write a Python function f that squares."

NONE, ONE, ALL = ("def f(x): return 0", "def f(x): return 4", "def f(x): return x * x")


@dataclass
class Drafter:
    """Writes by a function of the prompt and of how often it was asked."""

    write: Callable[[str, int], str]
    asked: list[str] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    name: str = "a-drafter"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        found = []
        for one in prompts:
            self.asked.append(one.text)
            self.samplings.append(sampling)
            found.append(Reply(self.write(one.text, len(self.asked)), 10, True))
        return found

    def next_token(self, prompts, top):
        raise AssertionError("a search asks for text alone")

    def logprobs(self, prompts, replies):
        raise AssertionError("a search asks for text alone")


def test_the_reason_leads_to_the_next_draft() -> None:
    def write(prompt: str, turn: int) -> str:
        return f"Sure:\n```python\n{ALL if 'f(3) is 4, not 9' in prompt else ONE}\n```\n"

    drafter = Drafter(write)
    found = propose(drafter, TASK, SPEC, Budget(width=1))
    assert [one.verdict.accepted for one in found.drafts] == [False, True]
    assert found.certificate is not None
    assert found.certificate.candidate == ALL
    assert found.tokens == 20
    assert drafter.asked[0] == TASK
    assert TASK in drafter.asked[1]
    assert ONE in drafter.asked[1]


def test_the_search_goes_on_from_the_best_draft() -> None:
    drafter = Drafter(lambda prompt, turn: (NONE, ONE, "def f(x): return 1")[min(turn, 3) - 1])
    found = propose(drafter, TASK, SPEC, Budget(width=3, drafts=6, tokens=60))
    assert found.certificate is None
    assert found.best is not None
    assert found.best.candidate == ONE
    assert ONE in drafter.asked[3]
    assert NONE not in drafter.asked[3]


def test_a_search_leaves_a_draft_that_leads_nowhere() -> None:
    drafter = Drafter(lambda prompt, turn: ONE)
    propose(drafter, TASK, SPEC, Budget(width=1, tokens=100))
    assert drafter.asked.count(TASK) > 1
    assert any(ONE in one for one in drafter.asked)


def test_the_first_draft_is_greedy_and_the_others_are_not_the_same_each_round() -> None:
    drafter = Drafter(lambda prompt, turn: f"def f(x): return {turn}")
    propose(drafter, TASK, SPEC, Budget(width=2, drafts=4))
    greedy, sampled = drafter.samplings[::2], drafter.samplings[1::2]
    assert {one.temperature for one in greedy} == {0}
    assert {one.temperature for one in sampled} == {0.8}
    assert len({one.seed for one in sampled}) == len(sampled) == 2


def test_no_budget_is_passed() -> None:
    def fresh(prompt: str, turn: int) -> str:
        return f"def f(x): return {turn}"

    by_drafts = propose(Drafter(fresh), TASK, SPEC, Budget(drafts=5, width=2))
    assert len(by_drafts.drafts) == 5
    by_tokens = propose(Drafter(fresh), TASK, SPEC, Budget(tokens=35, width=2, draft_tokens=10))
    assert by_tokens.tokens <= 40
    asked = Drafter(fresh)
    propose(asked, TASK, SPEC, Budget(tokens=35, width=2, draft_tokens=100))
    assert all(one.max_tokens <= 17 for one in asked.samplings)
    ticks = iter(range(0, 1000, 10))
    by_time = propose(
        Drafter(fresh), TASK, SPEC, Budget(seconds=25, width=1), clock=lambda: float(next(ticks))
    )
    assert len(by_time.drafts) == 2
    assert by_time.certificate is None


def test_a_draft_is_checked_once() -> None:
    found = propose(Drafter(lambda *_: ONE), TASK, SPEC, Budget(tokens=200, width=4))
    assert len(found.drafts) == 1


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    found = propose(Drafter(lambda *_: ALL), TASK, SPEC)
    assert found.certificate is not None
    return found.certificate


def test_a_certificate_checks_again_without_the_model(certificate: Certificate) -> None:
    again = Certificate.from_json(certificate.to_json())
    assert again == certificate
    assert again.digest == certificate.digest
    assert recheck(again) == checker(SPEC)(ALL)
    assert recheck(again).accepted


def test_a_changed_certificate_is_refused_and_a_forged_one_fails(certificate: Certificate) -> None:
    text = certificate.to_json()
    for before, after in (("x * x", "x + x"), ("squares", "cubes"), ('"equals": 4', '"equals": 5')):
        assert before in text
        with pytest.raises(ControlError, match="no certificate"):
            Certificate.from_json(text.replace(before, after))
    twice = text.replace('"task": ', '"task": "another", "task": ', 1)
    for other in ("", "[]", "{}", "{", twice, text.replace("x * x", "\\ud800")):
        with pytest.raises(ControlError, match="no certificate"):
            Certificate.from_json(other)
    forged = Certificate.from_json(replace(certificate, candidate=ONE).to_json())
    assert not recheck(forged).accepted


def test_a_candidate_is_the_first_fenced_block_or_all() -> None:
    assert extracted("Yes.\n```python\nx = 1\n```\nand\n```\ny\n```") == "x = 1"
    assert extracted(" x = 1 \n") == "x = 1"


def test_a_budget_of_nothing_is_refused() -> None:
    for wrong in ({"tokens": 0}, {"seconds": 0}, {"width": 0}, {"temperature": 0}):
        with pytest.raises(UsageError):
            Budget(**wrong)


def test_examples_are_shown_as_earlier_exchanges_each_time() -> None:
    histories = []

    class Watching(Drafter):
        def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
            histories.extend(one.history for one in prompts)
            return super().generate(prompts, sampling)

    drafter = Watching(lambda prompt, turn: ONE if turn < 3 else ALL)
    shown = (("Write g.", "def g(x): return x"),)
    found = propose(drafter, TASK, SPEC, Budget(width=1), examples=shown)
    assert found.certificate is not None
    assert set(histories) == {shown}


def test_the_same_is_gone_on_from_hotter_and_never_greedy_twice() -> None:
    drafter = Drafter(lambda prompt, turn: NONE)
    propose(drafter, TASK, SPEC, Budget(width=2, tokens=400, anew=0))
    begun = [
        one for text, one in zip(drafter.asked, drafter.samplings, strict=True) if text == TASK
    ]
    assert [one.temperature for one in begun].count(0) == 1
    heats = list(dict.fromkeys(one.temperature for one in begun if one.temperature))
    assert heats == pytest.approx([0.8, 1.0, 1.2, 1.4, 1.6])


def test_what_beginning_anew_costs_decides_how_often_it_is_done() -> None:
    def begun(anew: float) -> int:
        drafter = Drafter(lambda prompt, turn: f"def f(x): return {turn} - 10000")
        propose(drafter, TASK, SPEC, Budget(width=2, drafts=40, anew=anew))
        return drafter.asked.count(TASK)

    assert begun(0.0) == 40 > begun(0.25) > begun(1.0)


@dataclass
class Lister(Drafter):
    """Lists its replies, too: functions that return a number, in their order."""

    listed: list[str] = field(default_factory=list)

    def enumerate(self, prompt: Prompt, longest: int) -> Listed:
        self.listed.append(prompt.text)
        return Listed(longest)


@dataclass
class Listed:
    longest: int
    told: int = 0

    def next(self, count: int, tokens: int) -> tuple[list[Reply], int]:
        count = min(count, tokens // self.longest)
        texts = [f"def f(x): return {place}" for place in range(self.told, self.told + count)]
        self.told += count
        return [Reply(one, self.longest, True) for one in texts], self.longest * count


def test_replies_are_listed_behind_the_greedy_one() -> None:
    model = Lister(lambda prompt, turn: "def f(x): return 1")
    budget = Budget(width=4, drafts=8, draft_tokens=10, enumerate=True, anew=0.0)
    found = propose(model, TASK, {**SPEC, "cases": CASES[:1]}, budget)
    said = [one.candidate[-1] for one in found.drafts]
    assert said == ["1", "0", "2", "3", "4"]  # 1 is not drafted twice
    assert found.certificate is not None
    assert model.listed == [TASK]  # it goes on where it stood
    assert len(model.asked) == 1
    assert {one.temperature for one in model.samplings} == {0}
    assert found.tokens == 10 + 30 + 40


def test_listed_replies_pass_no_budget() -> None:
    model = Lister(lambda prompt, turn: "def f(x): return -1")
    budget = Budget(width=4, drafts=50, draft_tokens=10, tokens=55, enumerate=True, anew=0.0)
    found = propose(model, TASK, SPEC, budget)
    assert found.certificate is None
    assert found.tokens <= 55
    assert len(found.drafts) <= 5


def test_a_model_that_lists_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot list"):
        propose(Drafter(lambda prompt, turn: NONE), TASK, SPEC, Budget(enumerate=True))
