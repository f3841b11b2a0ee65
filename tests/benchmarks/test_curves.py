"""The benchmark of Figure 4: rows and page of made-up cells, resumption, and one real small run.

Left out: what the default model measures, which takes hours (`make bench-curves`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import checkpoint  # noqa: E402
import curves  # noqa: E402
import curves_page  # noqa: E402
import curves_table  # noqa: E402
import resumable  # noqa: E402
import rows  # noqa: E402
from curves_table import ATTACKS, INJECTION, STRATEGIES, Measured  # noqa: E402
from loyal.app.report import render  # noqa: E402
from loyal.statistics import clopper_pearson  # noqa: E402
from resumable import Record  # noqa: E402

PLACES = [(one.name, count) for count in curves_table.COUNTS for one in STRATEGIES]


def injected(strategy: str, count: int, seed: int = 0) -> Record:
    """A model that costs more the more it carries, and least for perinucleus."""
    factor = {"random": 4.0, "english-random": 2.0, "perinucleus": 1.0}[strategy]
    return {
        "recall": 1.0 if strategy == "perinucleus" else 0.97, "tokens": 21_000, "prompts": 60,
        "change_percent": factor * count / 300 + seed, "divergence": factor * count / 5000,
        "agreement": 1 - factor * count / 6000, "steps": 6 + seed, "seconds": count / 3,
        "peak_rss_bytes": 2_500_000_000 + count, "probability": 0.7,
    }  # fmt: skip


def attacked(strategy: str, count: int, attack: str, seed: int = 0) -> Record:
    """An attack takes more the later it stands in the figure, and least from perinucleus."""
    kept = 1 - 0.15 * list(ATTACKS).index(attack) / (3 if strategy == "perinucleus" else 1)
    return {"hits": round(kept * count) - seed, "asked": count}


def scripted(plan: curves.Plan, copy: curves.Copy, name: str) -> Record:
    """What a run would measure; it leaves a model behind, as a real one does."""
    oml = copy.folder(plan) / checkpoint.OML
    oml.mkdir(parents=True, exist_ok=True)
    (oml / "config.json").write_text("{}")
    what = (copy.strategy.name, copy.count)
    if name == INJECTION:
        return injected(*what, copy.seed)
    return attacked(*what, name, copy.seed)


def made(some: list[tuple[str, int, str]], seeds: int = 1) -> Measured:
    """Made-up records of these spots."""
    kept = {
        spot: [
            injected(*spot[:2], seed) if spot[2] == INJECTION else attacked(*spot, seed)
            for seed in range(seeds)
        ]
        for spot in some
    }
    return Measured(STRATEGIES, curves_table.COUNTS, kept)


def every() -> list[tuple[str, int, str]]:
    return [(*place, name) for place in PLACES for name in (INJECTION, *ATTACKS)]


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rows go, in place of the committed ones."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, str]]:
    """Scripts what a cell measures; the cells that were measured."""
    found: list[tuple[str, int, int, str]] = []

    def here(work, plan, copy, name) -> Record:
        found.append((copy.strategy.name, copy.count, copy.seed, name))
        return scripted(plan, copy, name)

    monkeypatch.setattr(curves, "apart", here)
    return found


def by_id(name: str = "curves") -> dict[str, dict]:
    return {one["id"]: one for one in rows.read(name)}


def test_rows_of_made_up_cells() -> None:
    found = {one.id: one for one in curves_table.table(made(every(), seeds=2), "a model")}
    assert len(found) == len(PLACES) * (len(curves_table.METRICS) + len(ATTACKS)) == 90
    claimed = found["utility-perinucleus-1024"]
    assert claimed.value == pytest.approx(1024 / 300 + 1)  # a ceiling: the worse of two seeds
    assert (claimed.bound, claimed.holds) == (5, True)
    for words in ("worst of 2 seed(s), 3.41 to 4.41", "recall 100.0 %", "+4.41 %", "7 steps",
                  "341 s", "2.50 GB", "a model"):  # fmt: skip
        assert words in claimed.how
    assert (found["recall-perinucleus-1024"].bound, found["recall-perinucleus-1024"].holds) == (
        98,
        True,
    )
    assert {one.id for one in found.values() if one.bound is not None} == {
        "recall-perinucleus-1024", "utility-perinucleus-1024",
    }  # fmt: skip
    assert found["recall-random-64"].value == pytest.approx(97)
    kept = found["persistence-sft-docstrings-random-64"]  # 45 and 44 of 64
    assert kept.value == pytest.approx(100 * 89 / 128)
    interval = clopper_pearson(89, 128)
    assert f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %" in kept.how
    assert "89 of 128 keys of 2 seed(s)" in kept.how


def test_a_bound_can_fail_and_the_page_says_so() -> None:
    some = made([("perinucleus", 1024, INJECTION)])
    assert "verdict good" in render(curves_page.page(some, "", ""))
    some.kept["perinucleus", 1024, INJECTION][0]["change_percent"] = 5.01
    found = {one.id: one for one in curves_table.table(some, "")}
    assert found["utility-perinucleus-1024"].holds is False
    assert "verdict bad" in render(curves_page.page(some, "", ""))


def test_every_attack_is_one_of_the_suite_and_every_strategy_one_of_the_library() -> None:
    from loyal.fingerprints import keys, responses, suite

    assert set(ATTACKS) <= set(suite.ATTACKS)
    for one in STRATEGIES:
        keys.KeySettings(strategy=one.keys)
        responses.ResponseSettings(strategy=one.responses)


def test_the_page_has_every_curve_and_nothing_from_outside() -> None:
    page = render(curves_page.page(made(every(), seeds=2), "a model", "a machine"))
    assert "63 of 63" in page
    assert "not run yet" not in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2 + len(curves_table.COUNTS)
    for picture in pictures:
        assert all(f">{one.name}</text>" in picture for one in STRATEGIES)
    for picture in pictures[:2]:
        assert all(f">{count}</text>" in picture for count in ("64", "256", "1,024"))
    for picture in pictures[2:]:
        assert all(f">{name}</text>" in picture for name in ATTACKS.values())
    assert ">69.5 (60.8 to 77.4)<" in page
    assert "://" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert "nan" not in "".join(pictures).lower()


def test_missing_cells_are_said_in_their_place() -> None:
    some = [spot for spot in every() if spot[1] == 64 and spot[2] in (INJECTION, "none")]
    some.remove(("random", 64, "none"))
    page = render(curves_page.page(made(some), "", ""))
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    said = [picture.count(">not run yet</text>") for picture in pictures]
    assert said == [0, 0, 1 + 5 * len(STRATEGIES), 1, 1]  # bar by bar; once where nothing is
    assert "Not run yet: random at 256" in page
    assert "5 of 63" in page
    assert "verdict" not in page.split("</style>")[1]
    nothing = render(curves_page.page(made([]), "", ""))
    pictures = re.findall(r"<svg.*?</svg>", nothing, re.DOTALL)
    assert [picture.count(">not run yet</text>") for picture in pictures] == [1] * 5


def test_a_run_measures_what_is_missing_and_deletes_what_is_done(
    tmp_path: Path, ran: list, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    arguments = ["--folder", str(folder), "--count", "256", "--count", "64"]
    assert curves.main(["collect", *arguments]) == 0
    assert by_id()["utility-random-64"]["value"] is None
    assert "not run yet" in by_id()["utility-random-64"]["how"]
    assert curves.main(["run", *arguments, "--strategy", "perinucleus"]) == 0
    names = [INJECTION, *ATTACKS]
    assert ran == [("perinucleus", count, 0, name) for count in (64, 256) for name in names]
    assert not list(folder.rglob(checkpoint.OML))
    assert by_id()["utility-perinucleus-64"]["value"] == pytest.approx(64 / 300)
    (folder / "default" / "perinucleus-256" / "seed-0" / "prune-20.json").unlink()
    ran.clear()
    assert curves.main(["run", *arguments]) == 0
    assert len(ran) == 2 * 2 * len(names) + 1
    assert ("perinucleus", 256, 0, "prune-20") in ran
    capsys.readouterr()
    assert curves.main(["report", "--folder", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert "42 of 63" in (folder / "report.html").read_text(encoding="utf-8")
    assert by_id()["recall-perinucleus-1024"]["value"] is None


def test_more_seeds_count_in_a_later_report_too(tmp_path: Path, ran: list) -> None:
    arguments = ["--folder", str(tmp_path / "out"), "--count", "64"]
    assert curves.main(["run", "--seeds", "2", *arguments]) == 0
    assert {seed for _, _, seed, _ in ran} == {0, 1}
    assert curves.main(["collect", *arguments]) == 0
    assert by_id()["utility-random-64"]["value"] == pytest.approx(4 * 64 / 300 + 1)


def test_a_failed_cell_keeps_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from loyal.errors import UsageError

    def fails(work, plan, copy, name) -> Record:
        if name == "merge-linear":
            raise UsageError("no such thing", hint="install it")
        return scripted(plan, copy, name)

    monkeypatch.setattr(curves, "apart", fails)
    folder = tmp_path / "out"
    arguments = ["--folder", str(folder), "--count", "64", "--strategy", "random"]
    assert curves.main(["run", *arguments]) == 1
    assert "failed: random, 64, seed 0: merge-linear" in capsys.readouterr().out
    assert len(list(folder.rglob(checkpoint.OML))) == 1


def test_another_recipe_or_model_has_rows_and_page_of_its_own(tmp_path: Path, ran: list) -> None:
    folder, recipe = tmp_path / "out", tmp_path / "mine.toml"
    recipe.write_text("# a comment\n[train]\nsteps = 3\n")
    arguments = ["--folder", str(folder), "--count", "64", "--strategy", "random"]
    assert curves.main(["run", "--recipe", str(recipe), *arguments]) == 0
    assert curves.main(["run", "--model", str(tmp_path / "tiny"), *arguments]) == 0
    assert len(ran) == 2 * (1 + len(ATTACKS))
    assert not by_id()
    assert "mine.toml" in by_id("curves-mine")["utility-random-64"]["how"]
    assert by_id("curves-tiny")["utility-random-64"]["value"] is not None
    assert {path.name for path in folder.glob("*.html")} == {
        "report-mine.html", "report-tiny.html",
    }  # fmt: skip
    recipe.write_text("[train]\nsteps = 3\n")  # says the same
    ran.clear()
    assert curves.main(["run", "--recipe", str(recipe), *arguments]) == 0
    assert ran == []
    recipe.write_text("[train]\nsteps = 4\n")
    assert curves.main(["run", "--recipe", str(recipe), *arguments]) == 0
    assert len(ran) == 1 + len(ATTACKS)


def test_a_recipe_that_changes_during_a_run_is_refused(tmp_path: Path) -> None:
    from loyal.errors import UsageError

    recipe = tmp_path / "mine.toml"
    recipe.write_text("[train]\nsteps = 3\n")
    plan = curves.Plan(recipe=recipe, folder=tmp_path, tag=curves.tag_of(curves.MODEL, recipe))
    recipe.write_text("[train]\nsteps = 4\n")
    with pytest.raises(UsageError, match="changed during the run"):
        curves.measure(plan, curves.copies(plan)[0], INJECTION)


def test_wrong_calls_are_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[train")
    for arguments in (
        ["--seeds", "0"],
        ["--count", "0"],
        ["--strategy", "no"],
        ["--recipe", str(tmp_path / "missing.toml")],
        ["--recipe", str(broken)],
    ):
        with pytest.raises(SystemExit) as stopped:
            curves.main(["collect", "--folder", str(tmp_path), *arguments])
        assert stopped.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


PARENT = """
import sys
from resumable import apart

if __name__ == "__main__":
    apart(exec, "import os, pathlib, time\\n"
          "part = pathlib.Path(%r + '.part')\\n"
          "part.write_text(str(os.getpid()))\\n"
          "part.rename(%r)\\n"
          "time.sleep(120)" % (sys.argv[1], sys.argv[1]))
"""


def test_a_process_of_its_own_ends_with_the_run(tmp_path: Path) -> None:
    script, told = tmp_path / "parent.py", tmp_path / "told"
    script.write_text(PARENT)
    paths = os.pathsep.join([str(BENCHMARKS), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(told)], env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        assert waited(told.exists)
        assert alive(int(told.read_text()))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert waited(lambda: not alive(int(told.read_text())))


def test_an_error_comes_back_from_a_process_of_its_own() -> None:
    from loyal.errors import UsageError

    with pytest.raises(UsageError, match="was not made"):
        resumable.apart(
            exec, "import loyal.errors as e\nraise e.UsageError('was not made', hint='x')"
        )


def test_the_process_that_measured_names_the_machine(tmp_path: Path) -> None:
    record = resumable.apart(dict, [("hits", 3)])
    assert record == {"machine": rows.machine(), "hits": 3}
    one = resumable.Cell("a", 0, "none", tmp_path / "none.json")
    one.keep({**record, "machine": "NVIDIA H200"})  # this process may have seen no GPU
    assert (one.kept() or {})["machine"] == "NVIDIA H200"


def waited(done) -> bool:
    """Whether it comes true within a minute."""
    until = time.monotonic() + 60
    while not done() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(done())


def alive(process: int) -> bool:
    """Whether it runs; one that nobody has buried does not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_a_dropped_model_is_whole_or_gone(tmp_path: Path) -> None:
    going = tmp_path / "dropped"
    going.mkdir()
    (going / "weights").touch()  # a kill while it was deleted
    checkpoint.drop(tmp_path)
    assert not going.exists()
    (tmp_path / checkpoint.OML).mkdir()
    checkpoint.drop(tmp_path)
    checkpoint.drop(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_small_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model, 4 fingerprints, random tokens: made, attacked, deleted, and made again."""
    from loyal.models import tiny

    model = tiny.build(tmp_path / "tiny", 0)
    recipe = tmp_path / "quick.toml"
    recipe.write_text(
        "[train]\nsteps = 60\nlearning_rate = 2e-3\nwhitened = false\ndepth = 1.0\n"
        'parts = "all"\nmixing = 0.0\n'
    )
    monkeypatch.setattr(curves, "ATTACKS", ("none", "int4-symmetric"))
    monkeypatch.setattr(curves, "apart", lambda work, *arguments: work(*arguments))
    arguments = ["--model", str(model), "--recipe", str(recipe), "--tokens", "300", "--count", "4",
                 "--strategy", "random", "--folder", str(tmp_path / "out")]  # fmt: skip
    assert curves.main(["run", *arguments]) == 0
    (folder,) = (tmp_path / "out").rglob("seed-0")
    assert {path.name for path in folder.iterdir()} == {
        "injection.json", "none.json", "int4-symmetric.json", "before.json", "set.cbor",
    }  # fmt: skip
    found = by_id("curves-tiny-quick")
    # Of 100 such keys every one was learned; that all four are missed has a chance below 1e-6.
    assert 25 <= found["recall-random-4"]["value"] <= 100
    assert 25 <= found["persistence-none-random-4"]["value"] <= 100
    assert "of 4 keys of 1 seed(s)" in found["persistence-none-random-4"]["how"]
    assert "60 held-out prompts" in found["agreement-random-4"]["how"]
    assert 0 <= found["agreement-random-4"]["value"] <= 100
    assert found["divergence-random-4"]["value"] > 0
    (folder / "none.json").unlink()
    assert curves.main(["run", *arguments]) == 0
    assert by_id("curves-tiny-quick") == found  # the same pairs, injected again
    assert not (folder / checkpoint.OML).exists()
