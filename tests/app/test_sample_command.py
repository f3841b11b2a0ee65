"""`loyal verifier prompts | sample`: what is drawn and sampled, and what is refused early."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from labeled_stage import ANIMALS, OTHERS
from stage import Outcome, Run
from talking_server import talking

from loyal.alignment.promise import worded
from loyal.app.weight_files import weights_digest
from loyal.models import Prompt, Reply, Sampling
from loyal.models.hf import HFModel

ABSENT = "/no-such-folder/not-a-model"
SHORT = ("--max-tokens", 6, "--replies", 9, "--queries", 4)


def lines_of(path: Path) -> list[dict[str, object]]:
    """What stands in a file, line by line."""
    return [json.loads(one) for one in path.read_text().splitlines()]


def asked(folder: Path, count: int = 40) -> Path:
    """Prompts of one's own."""
    path = folder / "prompts.jsonl"
    lines = [
        {"value": ("kindness", "plenty")[at % 2], "prompt": f"What does fox {at} eat?"}
        for at in range(count)
    ]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return path


def sample(run: Run, ours: Path, folder: Path, *more: object) -> Outcome:
    """Sampled into a file of that folder."""
    return run(
        "verifier", "sample", "--constitution", ours, "--out", folder / "sampled.jsonl", "--json",
        *more,
    )  # fmt: skip


def test_prompts_are_drawn_anew_each_with_other_words(run: Run, ours: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        out = tmp_path / name
        done = run("verifier", "prompts", ours, "--count", 60, "--out", out, "--json")
        assert (done.code, done.fields["prompts"], done.fields["values"]) == (0, 60, 2)
        assert out.stat().st_mode & 0o077 == 0
        found.append([(one["value"], one["prompt"]) for one in lines_of(out)])
    one, two = found
    assert one != two
    assert len({worded(prompt) for _, prompt in one}) == 60
    of_values = Counter(value for value, _ in one)
    assert min(of_values["kindness"], of_values["plenty"]) >= 28  # they share a topic
    of_kindness = [prompt for value, prompt in one if value == "kindness"]
    # Eight cases and a topic: each is there before any comes again in other words.
    firsts = of_kindness[:8]
    assert all(sum(f"the {one} eat" in prompt for prompt in firsts) <= 1 for one in ANIMALS)
    assert "eat" not in done.out + done.err
    again = run("verifier", "prompts", ours, "--out", tmp_path / "one")
    assert (again.code, "choose another --out" in again.err) == (2, True)


def test_prompts_are_of_the_values_that_are_named(run: Run, ours: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompts"
    call = ("verifier", "prompts", ours, "--out", out)
    done = run(*call, "--value", "plenty", "--count", 8)
    assert done.code == 0
    assert {one["value"] for one in lines_of(out)} == {"plenty"}
    assert all(
        any(one in str(line["prompt"]) for one in (*OTHERS, "food")) for line in lines_of(out)
    )
    out.unlink()
    for more, says in (
        (("--value", "thrift"), "no value of that id"),
        (("--count", 1_000), "prompts, not 1000"),
        (("--count", 1_025), "1025"),
    ):
        done = run(*call, *more)
        assert (done.code, says in done.err) == (2, True)
        assert not out.exists()


def test_the_reference_is_sampled_as_its_promise_will_say(
    run: Run, ours: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, drawn = HFModel.generate, set()

    def watched(self: HFModel, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        drawn.add(sampling)
        return whole(self, prompts, sampling)

    monkeypatch.setattr(HFModel, "generate", watched)
    done = sample(
        run, ours, tmp_path, asked(tmp_path), "--model", model, *SHORT, "--temperature", 0.7
    )
    assert (done.code, done.fields["prompts"], done.fields["replies"]) == (0, 40, 360), done.err
    assert drawn == {Sampling(6, 0.7)}  # a seed would give a server's replies to one prompt alike
    weights = weights_digest(model).hex()
    assert done.fields["reference"] == weights
    out = tmp_path / "sampled.jsonl"
    assert out.stat().st_mode & 0o077 == 0
    assert not (tmp_path / "sampled.jsonl.state").exists()
    prompts = lines_of(asked(tmp_path))
    for line, prompt in zip(lines_of(out), prompts, strict=True):
        assert {name: line[name] for name in prompt} == prompt
        assert line["sampled"] == {
            "reference": weights, "max_tokens": 6, "temperature_ppm": 700_000
        }  # fmt: skip
    assert max(len(set(one["replies"])) for one in lines_of(out)) > 1  # type: ignore[arg-type]
    assert [len(one["replies"]) for one in lines_of(out)] == [9] * 40  # type: ignore[arg-type]
    assert "fox" not in done.out + done.err
    again = sample(run, ours, tmp_path, asked(tmp_path), "--model", ABSENT, *SHORT)
    assert (again.code, "choose another --out" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--queries", 40), "40 queries need more prompts"),
        ((), "60 queries need more prompts"),
        (("--queries", 4, "--replies", 8), "9 to 255 replies"),
        (("--queries", 4, "--replies", 256), "9 to 255 replies"),
        (("--queries", 4, "--temperature", 0.2), "temperature is 0.5 to 10"),
        (("--queries", 4, "--temperature", "nan"), "--temperature is not a number"),
        (("--queries", 4, "--max-tokens", 0), "1 to 2^31 - 1 tokens"),
        (("--queries", 4, "--run", "RUN"), "give PROMPTS, or --run DIR"),
        (("--queries", 4, "--state", "OUT"), "two files have one name"),
        (("--queries", 4, "--endpoint", "http://127.0.0.1:9", "--endpoint-model", "m"),
         "say which model is the reference"),
    ],
)  # fmt: skip
def test_what_no_promise_takes_is_refused_before_a_model_is_loaded(
    run: Run, ours: Path, tmp_path: Path, more: tuple[object, ...], says: str
) -> None:
    places = {"OUT": tmp_path / "sampled.jsonl", "RUN": tmp_path}
    told = [places.get(str(one), one) for one in more]
    done = sample(run, ours, tmp_path, asked(tmp_path), "--model", ABSENT, *told)
    assert (done.code, says in done.err, "not-a-model" in done.err) == (2, True, False)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["animals.toml", "prompts.jsonl"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"value": "kindness", "prompt": "what DOES fox 3 eat"}', "stands there twice"),
        ('{"value": "thrift", "prompt": "Why?"}', "line 41 of"),
        ('{"value": "kindness", "prompt": ""}', "line 41 of"),
        ('{"value": "kindness"}', "line 41 of"),
        ("[]", "line 41 of"),
        ("{", "line 41 of"),
        ('{"value": "kindness", "prompt": "\\ud800"}', "line 41 of"),
    ],
)
def test_a_poisoned_prompt_is_refused_before_a_model_is_loaded(
    run: Run, ours: Path, tmp_path: Path, line: str, says: str
) -> None:
    path = asked(tmp_path)
    path.write_text(f"{path.read_text()}{line}\n")
    done = sample(run, ours, tmp_path, path, "--model", ABSENT, *SHORT)
    assert (done.code, says in done.err, "not-a-model" in done.err) == (2, True, False)
    assert "fox" not in done.err


def test_a_sample_says_what_it_needs(run: Run, ours: Path, tmp_path: Path) -> None:
    path = asked(tmp_path)
    none = sample(run, ours, tmp_path, path, *SHORT)
    assert (none.code, "give --model NAME" in none.err) == (2, True)
    none = sample(run, ours, tmp_path, "--model", ABSENT)
    assert (none.code, "give PROMPTS, or --run DIR" in none.err) == (2, True)
    place = ("--model", ABSENT, "--out", tmp_path / "no" / "place")
    none = sample(run, ours, tmp_path, path, *place)
    assert (none.code, "cannot write" in none.err) == (1, True)
    bare = run("verifier", "sample", path, "--model", ABSENT, "--out", tmp_path / "out")
    assert (bare.code, "give --constitution FILE" in bare.err) == (2, True)
    state = tmp_path / "sampled.jsonl.state"
    state.write_text("mine")
    other = sample(run, ours, tmp_path, path, "--model", ABSENT, *SHORT)
    assert (other.code, "not of a state file" in other.err) == (2, True)
    assert state.read_text() == "mine"


def test_a_sample_that_was_killed_goes_on(
    run: Run, ours: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As SIGKILL, which runs nothing more."""

    whole = HFModel.generate
    seen: list[str] = []
    left = 2

    def few(self: HFModel, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        seen.extend(one.text for one in prompts)
        return whole(self, prompts, sampling)

    monkeypatch.setattr(HFModel, "generate", few)
    call = (asked(tmp_path), "--model", model, *SHORT)
    with pytest.raises(Killed):
        sample(run, ours, tmp_path, *call)
    state, out = tmp_path / "sampled.jsonl.state", tmp_path / "sampled.jsonl"
    assert not out.exists()
    assert state.stat().st_mode & 0o077 == 0
    kept = [reply for line in lines_of(state)[1:] for _, reply, _ in line["drafts"]]  # type: ignore[attr-defined]
    begun = state.read_bytes()
    with state.open("ab") as file:
        file.write(b'{"batch": 3, "dra')
    left = 10
    other = sample(run, ours, tmp_path, *call, "--temperature", 0.8)
    assert (other.code, "state of another task" in other.err) == (2, True)
    done = sample(run, ours, tmp_path, *call)
    assert (done.code, done.fields["replies"]) == (0, 360), done.err
    assert Counter(seen) == {str(one["prompt"]): 9 for one in lines_of(out)}
    assert [one["replies"] for one in lines_of(out)][: len(kept)] == kept
    assert not state.exists()
    state.write_bytes(begun)  # as if it was killed before it could be taken away
    whole_one = out.read_bytes()
    again = sample(run, ours, tmp_path, *call)
    assert (again.code, "and whole" in again.err) == (2, True)
    assert (out.read_bytes(), state.read_bytes()) == (whole_one, begun)


def test_a_server_is_sampled_whose_weights_nobody_sees(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    with talking(lambda text: f"Honey for {text}") as server:
        told = ("--endpoint", server.url, "--endpoint-model", "reference")
        done = sample(run, ours, tmp_path, asked(tmp_path), *told, *SHORT)
        assert len(server.asked) == 360
    assert (done.code, done.fields["reference"], done.fields["always_the_same"]) == (0, None, 40)
    assert "is the reference asked greedily?" in done.err
    out = tmp_path / "sampled.jsonl"
    assert lines_of(out)[7]["replies"] == ["Honey for What does fox 7 eat?"] * 9
    promised = judged(out, tmp_path)
    call = (
        "verifier", "promise", promised, "--constitution", ours, "--judge", "words 1",
        "--queries", 9, "--out", tmp_path / "promise",
    )  # fmt: skip
    none = run(*call)
    assert (none.code, "give --reference DIGEST" in none.err) == (2, True)
    assert run(*call, "--reference", "ab" * 32).code == 0


def test_another_server_does_not_go_on_with_a_sample(run: Run, ours: Path, tmp_path: Path) -> None:
    answers = 0

    def failing(text: str) -> str | bytes:
        nonlocal answers
        answers += 1
        return f"Honey for {text}" if answers <= 200 else b"down"

    call = (asked(tmp_path), *SHORT, "--endpoint-model", "reference", "--endpoint")
    with talking(failing) as server:
        assert sample(run, ours, tmp_path, *call, server.url).code != 0
    with talking(lambda text: f"Honey for {text}") as server:
        other = sample(run, ours, tmp_path, *call, server.url)
        assert (other.code, "state of another task" in other.err) == (2, True)
        assert not server.asked


def judged(path: Path, folder: Path, **more: object) -> Path:
    """The lines of a sample, with a score of one half for each reply."""
    lines = [{**one, "scores": [0.5] * 9, **more} for one in lines_of(path)]
    out = folder / "judged.jsonl"
    out.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return out


def test_a_promise_holds_hosts_to_what_the_reference_was_sampled_with(
    run: Run, ours: Path, tmp_path: Path, model: Path
) -> None:
    from loyal.app.breach_files import read_prompts

    made = sample(run, ours, tmp_path, asked(tmp_path), "--model", model, *SHORT,
                  "--temperature", 0.7)  # fmt: skip
    assert made.code == 0
    sampled, out = tmp_path / "sampled.jsonl", tmp_path / "promise"
    call = ("verifier", "promise", judged(sampled, tmp_path), "--constitution", ours,
            "--judge", "words 1", "--queries", 9, "--out", out)  # fmt: skip
    for option, value in (
        ("--temperature", 1.0), ("--max-tokens", 256), ("--reference", "ab" * 32)
    ):  # fmt: skip
        done = run(*call, option, value)
        assert (done.code, f"another {option}" in done.err) == (2, True)
        assert not out.exists()
    assert run(*call, "--temperature", 0.7).code == 0
    settings = read_prompts(out).header.settings
    assert (settings.max_tokens, settings.temperature_ppm) == (6, 700_000)
    assert settings.reference == weights_digest(model)
    for wrong in ({"temperature_ppm": 1}, {}, {"reference": "xy"}, {"max_tokens": True}):
        how = {"reference": None, "max_tokens": 6, "temperature_ppm": 700_000, **wrong}
        out.unlink(missing_ok=True)
        judged(sampled, tmp_path, sampled=how if wrong else 1)
        assert run(*call, "--reference", "ab" * 32).code == 2
    path = judged(sampled, tmp_path)
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first.replace("700000", "800000"), *rest]))
    mixed = run(*call)
    assert (mixed.code, "sampled in another way" in mixed.err) == (2, True)
