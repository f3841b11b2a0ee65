"""`loyal simulate` and `loyal prover plan`: what they print, and how they end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stage import Run

from loyal.protocol import disputes
from loyal.roles import Cheating, PlanRequest, simulation
from loyal.roles.planning import plan

QUICK = ("simulate", "--interactions", 600, "--licenses", 40, "--draws", 9)


def test_a_simulation_that_holds_ends_with_0(run: Run) -> None:
    done = run(*QUICK, "--seed", 3, "--json")
    assert done.code == 0
    assert done.fields["good"] is True
    assert done.fields["broken"] == []
    assert done.fields["innocent_slashed"] == 0
    assert done.fields["interactions"] >= 600
    detection = done.fields["detection"]
    assert detection["licenses"] == 40
    assert len(detection["measured"]) == len(detection["exact"]) == 10
    assert sum(done.fields["money"].values()) == 0


def test_for_people_it_is_tables_with_the_progress_on_stderr(run: Run) -> None:
    done = run(*QUICK)
    assert done.code == 0
    assert "as it should be" in done.out
    assert "innocent hosts slashed" in done.out
    assert "exact law" in done.out
    assert "adversaries at work" in done.err
    assert "exact law" not in run(*QUICK, "--licenses", 0).out


def test_a_broken_rule_ends_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disputes, "_require_answer", lambda *_: None)
    done = run("simulate", "--licenses", 0, "--json")
    assert done.code == 1
    assert "a claim against an honest host was accepted" in done.fields["broken"]


def test_detection_that_is_off_ends_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = simulation.detect

    def off(*given: object) -> object:
        found = real(*given)  # type: ignore[arg-type]
        return replace(found, measured=tuple(1.0 for _ in found.measured))

    monkeypatch.setattr(simulation, "detect", off)
    done = run(*QUICK)
    assert done.code == 1
    assert "detection is off" in done.out


def test_the_plan_is_the_librarys(run: Run) -> None:
    found = plan(PlanRequest(Cheating(0.5, 0.9), inferences=100_000))
    done = run("prover", "plan", "--inferences", 100_000, "--json")
    assert done.code == 0
    assert done.fields["keys"] == found.keys
    assert done.fields["every_inferences"] == found.every_inferences
    assert done.fields["caught"] == found.caught
    assert done.fields["expected_draws"] == found.expected_draws
    assert "keys needed" in run("prover", "plan", "--inferences", 100_000).out


def test_a_plan_without_room_ends_with_1(run: Run) -> None:
    done = run("prover", "plan", "--days", 30, "--json")
    assert (done.code, done.fields["fits"]) == (1, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("prover", "plan"),
        ("prover", "plan", "--days", 0),
        ("prover", "plan", "--days", 9, "--alpha", 0),
        ("prover", "plan", "--days", 9, "--survival", 2),
        ("simulate", "--interactions", 0),
        ("simulate", "--adverse-provers", 0),
        ("simulate", "--verifiers", 1),
        ("simulate", "--skip-share", 7),
    ],
)
def test_a_call_that_cannot_be_meant_ends_with_2(run: Run, arguments: tuple[object, ...]) -> None:
    assert run(*arguments, "--json").code == 2
