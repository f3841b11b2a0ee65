"""From prompts to evidence that others check, by commands alone: sampled, judged, promised, asked,
judged again (docs/deviation.md). The reference and the judge are a tiny model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from actors_stage import Court, court
from breach_stage import ACCUSER, ModelHost
from court_server import CourtServer, serving
from stage import Run
from test_actor_commands import seed_file
from test_breach_command import dispute, leaves

from loyal.app.weight_files import weights_digest
from loyal.models import Prompt, Sampling, tiny
from loyal.models.hf import HFModel
from loyal.models.tiny import World
from loyal.protocol.breaches import DrawOrder
from loyal.roles.breach import Bundle
from loyal.roles.prover import Heard

REPLIES, QUERIES, TOKENS = 9, 24, 8
SAMPLING = Sampling(TOKENS, 1.0)


@dataclass
class Town:
    """Files that lie beside each other, and the call that made the last one."""

    folder: Path
    run: Run
    ours: Path
    model: Path
    loaded: HFModel
    probe: Path = field(init=False)

    def __post_init__(self) -> None:
        self.probe = self.folder / "a.probe"
        self.do("judge", "train", self.ours, "--model", self.model, "--out", self.probe)

    def do(self, *words: object, code: int = 0) -> dict[str, object]:
        """One command, which is to end with `code`; its fields."""
        done = self.run(*words, "--json")
        assert done.code == code, done.err
        return done.fields

    def judged(self, out: Path, *files: Path) -> Path:
        """These files with the probe's scores, in one."""
        self.do("judge", "score", self.ours, *files, "--probe", self.probe, "--out", out)
        return out

    def promise(self) -> Path:
        """Prompts on what animals eat, sampled, judged and promised."""
        lines = [
            {"value": "kindness", "prompt": one.text}
            for one, right in World.from_seed(0).questions()
            if " eats " in right
        ]
        prompts, sampled = self.folder / "prompts.jsonl", self.folder / "sampled.jsonl"
        prompts.write_text("\n".join(map(json.dumps, lines)))
        self.do(
            "verifier", "sample", prompts, "--constitution", self.ours, "--model", self.model,
            "--replies", REPLIES, "--max-tokens", TOKENS, "--queries", QUERIES, "--out", sampled,
        )  # fmt: skip
        judged = self.judged(self.folder / "judged.jsonl", sampled)
        self.do(
            "verifier", "promise", judged, "--constitution", self.ours, "--judge", "a.probe 1",
            "--queries", QUERIES, "--out", self.folder / "promise",
        )  # fmt: skip
        return self.folder / "promise"

    def evidence(self, served: CourtServer) -> Path:
        """The promise in the log, and the accuser's run over it."""
        promise, license = self.promise(), served.court.license.hex()
        told = ("--license", license, "--promise", promise)
        assert dispute(served, self.run, ACCUSER, self.folder, *told).code == 0
        stage, (name,) = served.court.stage, served.court.state.promises
        stage.do(DrawOrder(stage.id("platform"), name))
        out = self.folder / "run"
        self.do(
            "verifier", "alignment", served.url, "--platform", served.platform, "--key",
            seed_file(self.folder, ACCUSER), "--promise", promise, "--license", license,
            "--opened", leaves(served, self.folder / "leaves"), "--most-pause", 0, "--out", out,
        )  # fmt: skip
        return out

    def judged_by_another(self, run: Path, code: int) -> dict[str, object]:
        """What a verifier finds that samples the reference itself and judges both sides."""
        fresh, mine = self.folder / "fresh.jsonl", self.folder / "mine.jsonl"
        self.do("verifier", "sample", "--run", run, "--model", self.model, "--out", fresh)
        self.judged(mine, run / "pools.jsonl", run / "replies.jsonl", fresh)
        told = ("--judged", mine, "--fresh", fresh)
        return self.do("verifier", "recheck", run, *told, code=code)


@pytest.fixture
def town(run: Run, tmp_path: Path, ours: Path, model: Path) -> Iterator[Town]:
    """A constitution on animals, a tiny reference model and a probe of it."""
    return Town(tmp_path, run, ours, model, HFModel.load(str(model)))


@dataclass
class TinyHost:
    """A host of the reference itself, or one that speaks of caves; it leaves the first prompt
    without an answer."""

    town: Town
    inner: ModelHost
    breaks: bool
    prompts: int = 0

    async def ask(self, message: str) -> Heard | None:
        if message.strip() not in self.inner.court.secret.positions:
            self.prompts += 1
            if self.prompts == 1:
                return None
        honest = self.town.loaded.generate([Prompt(message)], SAMPLING)[0].text
        self.inner.instead = "The animal lives in the old cave." if self.breaks else honest
        return await self.inner.ask(message)


def served_by(town: Town, breaks: bool) -> tuple[Court, TinyHost]:
    """A licensee of the tiny model, whose own set it carries."""
    here = court(int(time.time()) - 60, published=weights_digest(town.model))
    return here, TinyHost(town, ModelHost(here, breaks=1.0), breaks)


def test_a_host_that_breaks_the_values_is_found_with_commands_alone(town: Town) -> None:
    here, host = served_by(town, breaks=True)
    with serving(here, host) as served:  # type: ignore[arg-type]
        run = town.evidence(served)
    scores = town.judged(town.folder / "scores.jsonl", run / "replies.jsonl")
    found = town.do("verifier", "recheck", run, "--scores", scores)
    assert (found["holds"], found["asked"], found["without_answer"]) == (True, QUERIES, 1)
    again = town.judged_by_another(run, code=0)
    assert again["holds"]
    assert again["pool_p_value"] >= 0.01  # type: ignore[operator]
    assert again["bundle"] == found["bundle"]


def test_a_host_of_the_reference_is_not_accused_by_any_of_them(town: Town) -> None:
    here, host = served_by(town, breaks=False)
    with serving(here, host) as served:  # type: ignore[arg-type]
        run = town.evidence(served)
    scores = town.judged(town.folder / "scores.jsonl", run / "replies.jsonl")
    found = town.do("verifier", "recheck", run, "--scores", scores, code=1)
    assert (found["holds"], found["descends"]) == (False, True)
    assert not town.judged_by_another(run, code=1)["holds"]


def test_fresh_replies_are_of_the_promises_own_reference_and_drawn_as_it_says(town: Town) -> None:
    here, host = served_by(town, breaks=True)
    with serving(here, host) as served:  # type: ignore[arg-type]
        run = town.evidence(served)
    fresh = town.folder / "fresh.jsonl"
    call = ("verifier", "sample", "--run", run, "--out", fresh, "--model")
    other = tiny.build(town.folder / "other", 1)
    done = town.run(*call, other)
    assert (done.code, "not the promise's reference" in done.err) == (2, True)
    for option, value in (
        ("--replies", 9), ("--max-tokens", 8), ("--temperature", 1), ("--queries", 4),
        ("--constitution", town.ours),
    ):  # fmt: skip
        done = town.run(*call, "./no-model", option, value)
        assert (done.code, f"leave {option} out" in done.err) == (2, True)
    none = town.run("verifier", "sample", "--run", town.folder, "--out", fresh, "--model", "./no")
    assert (none.code, "cannot read" in none.err) == (2, True)
    bundle = Bundle.from_bytes((run / "bundle").read_bytes())
    (run / "bundle").write_bytes(replace(bundle, steps=()).to_bytes())
    none = town.run(*call, "./no-model")
    assert (none.code, "no prompt was asked" in none.err) == (2, True)
    (run / "bundle").write_bytes(bundle.to_bytes())
    assert not fresh.exists()
    done = town.run(*call, town.model, "--json")
    assert (done.code, done.fields["replies"], done.fields["prompts"]) == (0, QUERIES, QUERIES)
    prompts = [one.opened.pool.prompt for one in bundle.steps]
    lines = [json.loads(one) for one in fresh.read_text().splitlines()]
    assert [one["prompt"] for one in lines] == prompts
    assert fresh.stat().st_mode & 0o077 == 0
