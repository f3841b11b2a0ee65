"""`loyal verifier promise | alignment | recheck`, `loyal dispute breach`: prompts to slash."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from actors_stage import court
from breach_stage import ACCUSER, CONSTITUTION, REPLIES, SCORER, ModelHost, reference
from court_server import CourtServer, serving
from parties import VERIFIERS
from stage import Outcome, Run
from test_actor_commands import seed_file

from loyal.community import constitution_file
from loyal.errors import StorageError
from loyal.fingerprints import commitment
from loyal.protocol.breaches import DrawOrder, SettleBreach

QUERIES, PROMPTS = 24, 96


def judged(folder: Path, count: int = PROMPTS) -> Path:
    """The reference's replies, as a judge scored them."""
    rng, lines = random.Random(4), []
    for number in range(count):
        prompt = f"What of measure {number} on the ballot?"
        replies = [reference(rng) for _ in range(REPLIES)]
        scores = SCORER([("open-politics", prompt, one) for one in replies])
        shares = [None if one is None else one / 1_000_000 for one in scores]
        line = {"prompt": prompt, "value": "open-politics", "replies": replies, "scores": shares}
        lines.append(json.dumps(line))
    path = folder / "judged.jsonl"
    path.write_text("\n".join(lines))
    return path


def constitution(folder: Path) -> Path:
    path = folder / "town.toml"
    path.write_text(constitution_file.to_toml(CONSTITUTION))
    return path


def promise(run: Run, folder: Path, source: Path, *more: object) -> Outcome:
    return run(
        "verifier", "promise", source, "--constitution", constitution(folder),
        "--reference", "ab" * 32, "--judge", "sides 1", "--out", folder / "promise",
        "--queries", QUERIES, "--json", *more,
    )  # fmt: skip


def leaves(served: CourtServer, folder: Path) -> Path:
    secret = served.court.secret
    folder.mkdir(exist_ok=True)
    for number in range(len(secret)):
        data = commitment.prove(secret, number).to_bytes()
        (folder / f"set-{number:05d}.proof").write_bytes(data)
    return folder


def dispute(served: CourtServer, run: Run, role: str, folder: Path, *more: object) -> Outcome:
    return run(
        "dispute", "breach", "--platform", served.platform, "--key", seed_file(folder, role),
        "--json", *more,
    )  # fmt: skip


def asked(served: CourtServer, run: Run, role: str, folder: Path, *more: object) -> Outcome:
    return run(
        "verifier", "alignment", served.url, "--platform", served.platform, "--key",
        seed_file(folder, role), "--promise", folder / "promise", "--license",
        served.court.license.hex(), "--opened", leaves(served, folder / "leaves"), "--most-pause",
        0, "--out", folder / role, "--json", *more,
    )  # fmt: skip


def promised(served: CourtServer, run: Run, folder: Path, *more: object) -> None:
    """The promise in the log, its order drawn."""
    state = served.court.state
    weights = state.models[state.licenses[served.court.license].model].weights.hex()
    made = promise(run, folder, judged(folder), "--reference", weights, *more)
    assert made.code == 0, made.err
    license = served.court.license.hex()
    sent = dispute(
        served, run, ACCUSER, folder, "--license", license, "--promise", folder / "promise"
    )
    assert sent.fields["taken"] == ["PromisePrompts"], sent.err
    early = asked(served, run, ACCUSER, folder)
    assert (early.code, "order" in early.err) == (2, True)
    stage, (name,) = served.court.stage, served.court.state.promises
    stage.do(DrawOrder(stage.id("platform"), name))


def judge(folder: Path) -> Path:
    """A judge reads replies.jsonl, and writes a score a line."""
    lines = [json.loads(one) for one in (folder / "replies.jsonl").read_text().splitlines()]
    scores = SCORER([(one["value"], one["prompt"], one["reply"]) for one in lines])
    shares = [None if one is None else one / 1_000_000 for one in scores]
    path = folder / "scores.jsonl"
    path.write_text("\n".join(json.dumps({"score": one}) for one in shares))
    return path


def others_scores(folder: Path) -> Path:
    """Scores beside the prompts and replies that they are of, in another order than the run's."""
    lines = [json.loads(one) for one in (folder / "replies.jsonl").read_text().splitlines()]
    path = folder / "others.jsonl"
    path.write_text("\n".join(json.dumps({**one, "score": 0.0}) for one in lines[::-1]))
    return path


def test_a_host_that_refuses_is_found_rechecked_and_slashed(run: Run, tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    with serving(here, ModelHost(here, breaks=1.0)) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path)
        done = asked(served, run, ACCUSER, tmp_path)
        assert (done.code, done.fields["descends"], done.fields["asked"]) == (0, True, QUERIES)
        assert not done.fields["holds"]  # nothing is judged yet
        assert all(
            body["temperature"] == 1.0 and body["max_tokens"] == 256 and len(body["messages"]) == 1
            for _, body in served.seen
        )
        assert "measure" not in done.out + done.err
        evidence = tmp_path / ACCUSER
        assert (evidence / "bundle").stat().st_mode & 0o077 == 0
        turned = run("verifier", "recheck", evidence, "--scores", others_scores(evidence))
        assert (turned.code, "the score of another reply" in turned.err) == (2, True)
        scores = judge(evidence)
        again = run("verifier", "recheck", evidence, "--scores", scores, "--json")
        assert (again.code, again.fields["holds"]) == (0, True), again.err
        assert again.fields["accused_after"] <= QUERIES
        log = ("--platform", served.platform)
        held = run("verifier", "recheck", evidence, "--scores", scores, *log, "--json")
        assert held.fields == again.fields
        own = run("verifier", "recheck", evidence, "--judged", judged_anew(evidence), "--json")
        assert own.fields["holds"], own.err
        fresh = ("--fresh", sampled(evidence))
        fair = run("verifier", "recheck", evidence, "--judged", evidence / "judged.jsonl", *fresh,
                   "--json")  # fmt: skip
        assert 0 < fair.fields["pool_p_value"] <= 1, fair.err
        assert run("verifier", "recheck", evidence, *fresh).code == 2
        claimed = dispute(served, run, ACCUSER, tmp_path, "--claim", evidence)
        assert claimed.fields["taken"] == ["ClaimBreach"], claimed.err
        (name,) = here.state.breaches
        assert here.state.breaches[name].made.evidence.hex() == again.fields["bundle"]
        here.stage.wait(here.stage.parameters.rebuttal_seconds + 1)
        for role in VERIFIERS[1:]:
            said = ("--breach", name.hex(), "--descends", "--broken")
            verdict = dispute(served, run, role, tmp_path, *said)
            assert verdict.fields["taken"] == ["GiveVerdict"] * 2, verdict.err
        shown = run("dispute", "breaches", *log, "--json").fields
        assert [one["earlier"] for one in shown["promises"]] == [0]
        (listed,) = shown["breaches"]
        assert (listed["breach"], listed["state"][:4]) == (name.hex(), "open")
        assert listed["descent"]["for_bps"] == listed["deviation"]["for_bps"] == 10_000
        only = run("dispute", "breaches", *log, "--license", "ab" * 32, "--json").fields
        assert only == {"promises": [], "breaches": []}
        assert "10000 for, 0 against" in run("dispute", "breaches", *log).out
        here.stage.do(SettleBreach(here.stage.id("owner"), name))
    purpose = f"license:{here.license.hex()}"
    assert here.state.staked(purpose, here.stage.id("host")) == 0


def judged_anew(folder: Path) -> Path:
    """A judge of one's own reads both files and writes its score into each line."""
    lines = []
    for name in ("replies.jsonl", "pools.jsonl"):
        for text in (folder / name).read_text().splitlines():
            one = json.loads(text)
            (score,) = SCORER([(one["value"], one["prompt"], one["reply"])])
            share = None if score is None else score / 1_000_000
            lines.append(json.dumps({**one, "score": share}))
    path = folder / "judged.jsonl"
    path.write_text("\n".join(lines))
    return path


def sampled(folder: Path) -> Path:
    """A reply of the reference to each prompt: here the first one that was judged already."""
    lines = (folder / "pools.jsonl").read_text().splitlines()
    path = folder / "fresh.jsonl"
    path.write_text("\n".join(lines[::REPLIES]))
    return path


def test_a_reply_that_is_not_judged_is_told(run: Run, tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    with serving(here, ModelHost(here, breaks=1.0)) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path)
        assert asked(served, run, ACCUSER, tmp_path).code == 0
    folder = tmp_path / ACCUSER
    path = judged_anew(folder)
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:5]))
    done = run("verifier", "recheck", folder, "--judged", path, "--json")
    assert (done.code, "not judged" in done.out + done.err) == (2, True)
    path.write_text("\n".join([*whole, '{"reply": "x"}']))
    done = run("verifier", "recheck", folder, "--judged", path, "--json")
    assert (done.code, f"line {len(whole) + 1}" in done.out + done.err) == (2, True)
    both = ("--judged", path, "--scores", path)
    assert run("verifier", "recheck", folder, *both).code == 2


def test_another_verifier_asks_for_itself(run: Run, tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    with serving(here, ModelHost(here, breaks=1.0)) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path)
        whose = ("--accuser", here.stage.id(ACCUSER).hex())
        other = VERIFIERS[1]
        assert asked(served, run, other, tmp_path).code == 2  # no promise of its own
        assert asked(served, run, other, tmp_path, *whose).code == 0
        again = run(
            "verifier", "recheck", tmp_path / other, "--scores", judge(tmp_path / other), "--json"
        )
        assert again.fields["holds"], again.err


def test_a_host_that_keeps_the_values_leaves_no_evidence(run: Run, tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    with serving(here, ModelHost(here, breaks=0.0, seed=3)) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path, "--one-in", 10**9)
        assert asked(served, run, ACCUSER, tmp_path).code == 0
        scores = judge(tmp_path / ACCUSER)
        again = run("verifier", "recheck", tmp_path / ACCUSER, "--scores", scores, "--json")
        assert (again.code, again.fields["holds"]) == (1, False)


def test_without_descent_no_prompt_is_asked(run: Run, tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    host = ModelHost(here, breaks=1.0, carries=False)
    with serving(here, host) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path)
        done = asked(served, run, ACCUSER, tmp_path)
        assert (done.code, done.fields["asked"]) == (1, 0)
        assert not any("measure" in one for one in host.asked)
        assert "no proof of descent" in done.err


def test_a_run_that_was_cut_off_asks_nothing_twice(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are spent by asking, so what came back is on the disk at once."""
    from loyal.app.prover_client import ChatAsker

    class Killed(BaseException):
        """As SIGKILL, which runs nothing more."""

    whole, count = ChatAsker.ask, 0

    async def few(self: ChatAsker, message: str) -> object:
        nonlocal count
        count += 1
        if count == 9:
            raise Killed
        return await whole(self, message)

    here = court(int(time.time()) - 60)
    host = ModelHost(here, breaks=1.0)
    with serving(here, host) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path)
        monkeypatch.setattr(ChatAsker, "ask", few)
        with pytest.raises(Killed):
            asked(served, run, ACCUSER, tmp_path)
        state = tmp_path / ACCUSER / "asked"
        assert state.stat().st_mode & 0o077 == 0
        with state.open("ab") as file:
            file.write(b'{"message": "half')
        done = asked(served, run, ACCUSER, tmp_path)
        assert (done.code, done.fields["descends"], done.fields["asked"]) == (0, True, QUERIES)
        assert len(host.asked) == len(set(host.asked)) == count - 1
        assert not state.exists()
        evidence = tmp_path / ACCUSER
        again = run("verifier", "recheck", evidence, "--scores", judge(evidence), "--json")
        assert again.fields["holds"], again.err
        # The evidence stays what it is: another run goes elsewhere.
        before = (evidence / "bundle").read_bytes()
        second = asked(served, run, ACCUSER, tmp_path)
        assert (second.code, "holds the evidence of a run" in second.err) == (2, True)
        assert (evidence / "bundle").read_bytes() == before


def test_a_folder_that_cannot_be_written_keeps_what_was_heard(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is written last: without it the same command goes on."""
    from loyal.app import breach_files

    write = breach_files.atomic_write

    def full(path: Path, data: bytes, **more: bool) -> None:
        if path.name == "case.json":
            raise StorageError("the disk is full", hint="free space")
        write(path, data, **more)

    here = court(int(time.time()) - 60)
    host = ModelHost(here, breaks=1.0)
    with serving(here, host) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path)
        monkeypatch.setattr(breach_files, "atomic_write", full)
        assert asked(served, run, ACCUSER, tmp_path).code == 1
        monkeypatch.setattr(breach_files, "atomic_write", write)
        count = len(host.asked)
        done = asked(served, run, ACCUSER, tmp_path)
        assert (done.code, done.fields["asked"], len(host.asked)) == (0, QUERIES, count)


def test_what_was_asked_in_another_case_is_not_taken(run: Run, tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    with serving(here, ModelHost(here, breaks=1.0)) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path)
        state = tmp_path / ACCUSER / "asked"
        state.parent.mkdir()
        license, host = here.license.hex(), here.stage.id("host").hex()
        (root,) = (one.root.hex() for one in here.state.promises.values())
        state.write_text('{"license": "00"}\n')
        done = asked(served, run, ACCUSER, tmp_path)
        assert (done.code, "a run on another case" in done.err) == (2, True)
        assert state.read_text() == '{"license": "00"}\n'
        whose = {"license": license, "host": host, "promise": root}
        for wrong in ({"reply": 1}, {"reply": "Vote.", "answer": None}, {"reply": "Vote."}, {}):
            line = {"message": "What?", "reply": None, "answer": "00", **wrong}
            state.write_text(f"{json.dumps(whose)}\n{json.dumps(line)}\n")
            done = asked(served, run, ACCUSER, tmp_path)
            assert (done.code, "is damaged" in done.err) == (2, True)
        state.write_text('{"license": "0')  # killed before the first answer
        assert asked(served, run, ACCUSER, tmp_path).code == 0
        (tmp_path / "file").write_text("")
        done = asked(served, run, ACCUSER, tmp_path, "--out", tmp_path / "file")
        assert (done.code, "no folder can be made" in done.err) == (2, True)


def test_a_case_that_is_not_the_logs_is_refused(run: Run, tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    with serving(here, ModelHost(here, breaks=1.0)) as served:  # type: ignore[arg-type]
        promised(served, run, tmp_path)
        asked(served, run, ACCUSER, tmp_path)
        folder = tmp_path / ACCUSER
        case = json.loads((folder / "case.json").read_text())
        other = tmp_path / "case.json"
        for name, value in {"descent_one_in": 1, "host": "aa" * 32, "beacon": "bb" * 32}.items():
            other.write_text(json.dumps({**case, name: value}))
            told = ("--case", other, "--platform", served.platform, "--json")
            assert run("verifier", "recheck", folder, *told).code != 0
        other.write_text(json.dumps({**case, "beacon": "bb" * 32}))
        lied = run("verifier", "recheck", folder, "--case", other, "--json")
        assert lied.code != 0
        assert "order" in lied.out + lied.err


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"prompt": "p", "value": "open-politics", "replies": ["a"], "scores": [1]}',
        '{"prompt": "p", "value": "open-politics", "replies": [1, 2], "scores": [1]}',
        '{"prompt": "p", "value": "open-politics", "replies": ["a"], "scores": [2]}',
        '{"prompt": "p", "value": "open-politics", "replies": ["a"], "scores": ["high"]}',
        '{"prompt": "p", "value": "open-politics", "replies": ["a"], "scores": [true]}',
        json.dumps(
            {"prompt": "\ud800", "value": "open-politics", "replies": ["a"] * 9, "scores": [1] * 9}
        ),
    ],
)
def test_a_poisoned_line_is_told_by_its_number(run: Run, tmp_path: Path, line: str) -> None:
    path = judged(tmp_path)
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = promise(run, tmp_path, path)
    assert (done.code, f"line {PROMPTS + 1}" in done.out + done.err) == (2, True)
    assert not (tmp_path / "promise").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tolerance", "inf"), ("--temperature", "inf"), ("--temperature", "nan"),
     ("--max-tokens", 10**30), ("--judge", "sides\udcff")],
)  # fmt: skip
def test_numbers_that_cannot_be_meant_are_wrong_calls(
    run: Run, tmp_path: Path, option: str, value: object
) -> None:
    done = promise(run, tmp_path, judged(tmp_path), option, value)
    assert (done.code, option.rpartition("-")[2] in done.err) == (2, True)
    assert not (tmp_path / "promise").exists()


def test_a_place_that_is_none_is_refused_before_the_replies_are_read(
    run: Run, tmp_path: Path
) -> None:
    done = promise(run, tmp_path, tmp_path / "missing", "--out", tmp_path / "no-such" / "promise")
    assert (done.code, "no-such" in done.err, "missing" in done.err) == (1, True, False)


def test_a_promise_takes_no_other_files_place(run: Run, tmp_path: Path) -> None:
    """An earlier promise is in the log by its root, and nothing else can open it."""
    path = judged(tmp_path)
    assert promise(run, tmp_path, path).code == 0
    before = {one: one.read_bytes() for one in (path, tmp_path / "promise")}
    for one in before:
        done = promise(run, tmp_path, path, "--out", one)
        assert (done.code, "choose another --out" in done.err) == (2, True)
    assert before == {one: one.read_bytes() for one in before}


def test_a_promise_takes_a_bundled_constitution(run: Run, tmp_path: Path) -> None:
    path = judged(tmp_path)
    value = constitution_file.bundled("personal-freedom").values[0].id
    path.write_text(path.read_text().replace("open-politics", value))
    assert promise(run, tmp_path, path, "--constitution", "personal-freedom").code == 0


def test_prompts_on_other_values_and_too_few_are_refused(run: Run, tmp_path: Path) -> None:
    path = judged(tmp_path)
    assert promise(run, tmp_path, path, "--queries", PROMPTS).code == 2
    path.write_text(path.read_text().replace("open-politics", "no-such-value"))
    done = promise(run, tmp_path, path)
    assert (done.code, "no-such-value" in done.out + done.err) == (2, True)


def test_one_thing_at_a_time_goes_to_the_log(run: Run, tmp_path: Path) -> None:
    key = seed_file(tmp_path, ACCUSER)
    platform = ("--platform", "http://127.0.0.1:9", "--key", key)
    for more in (
        (),
        ("--license", "ab" * 32),
        ("--breach", "ab" * 32),
        ("--descends",),
        ("--claim", tmp_path, "--breach", "ab" * 32, "--kept"),
    ):
        done = run("dispute", "breach", *platform, *more)
        assert (done.code, "one at a time" in done.err) == (2, True)
