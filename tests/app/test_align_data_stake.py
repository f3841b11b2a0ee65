"""loyal align data with a member's stake, from the options to the weights on the loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from stage import Run

from loyal.alignment import Mixture, Preference, Record, preferences
from loyal.alignment.mixture import part
from loyal.alignment.preference import WHOLE_PPM
from loyal.app.align_files import read_records
from loyal.community import constitution_file

NAME = "public-library"
LIBRARY = constitution_file.bundled(NAME)
IDS = [one.id for one in LIBRARY.values]
STAKES = {"ada": "0.5", "bo": "1.5"}


@pytest.fixture
def files(run: Run, tmp_path: Path) -> list[Path]:
    """Pairs and demonstrations of two members, the second with three times the stake."""
    found = []
    for seed, (member, stake) in enumerate(STAKES.items()):
        out, shown = tmp_path / f"{member}.pairs", tmp_path / f"{member}.shown"
        done = run(
            "align", "data", NAME, "--out", out, "--examples", shown, "--pairs", 42,
            "--general", 6, "--safety", 6, "--contributor", member, "--campaign", "spring",
            "--stake", stake, "--set", f"plan.seed={seed}", "--set", "plan.held_out=7",
            "--held-out", tmp_path / f"{member}.held",
        )  # fmt: skip
        assert done.code == 0
        found += [out, shown]
    return found


def sums(records: list[Record], group: Callable[[Record], str]) -> Counter[tuple[str, str]]:
    """Weights by the group and the contributor."""
    found: Counter[tuple[str, str]] = Counter()
    for one in records:
        found[group(one), one.content.contributor] += one.content.weight_ppm
    return found


def test_names_and_stakes_are_on_every_line(run: Run, files: list[Path], tmp_path: Path) -> None:
    for path in files:
        records = list(preferences.read(path, IDS))
        member, factor = path.stem, float(STAKES[path.stem])
        assert {(one.content.contributor, one.content.campaign) for one in records} == {
            (member, "spring")
        }
        mean = sum(one.content.weight_ppm for one in records) / len(records)
        assert mean == pytest.approx(factor * WHOLE_PPM, rel=1e-4)
        held = list(preferences.read(tmp_path / f"{member}.held"))
        assert {one.content.contributor for one in held} == {member}
        assert {one.content.weight_ppm for one in held} == {WHOLE_PPM}
    together = tmp_path / "together"
    together.write_bytes(files[0].read_bytes() + files[2].read_bytes())
    told = run("align", "review", together, "--json")
    (finding,) = [one for one in told.fields["findings"] if one["rule"] == "contributor-share"]
    assert "bo gave 7" in finding["message"]


def test_a_constitution_gives_values_their_share_and_leaves_members_their_ratio(
    files: list[Path],
) -> None:
    records = read_records(files, LIBRARY)
    pairs = [one for one in records if isinstance(one.content, Preference)]
    found = sums(pairs, lambda one: one.content.value)
    whole = sum(found.values())
    for value in LIBRARY.values:
        ada, bo = found[value.id, "ada"], found[value.id, "bo"]
        assert bo == pytest.approx(3 * ada, rel=1e-3)
        assert ada + bo == pytest.approx(whole * value.weight_bps / 10_000, rel=1e-3)


def test_a_mixture_gives_kinds_their_share_and_leaves_members_their_ratio(
    files: list[Path],
) -> None:
    mixture = Mixture(500_000, 300_000, 200_000)
    found = sums(mixture.applied(read_records(files, LIBRARY)), part)
    whole = sum(found.values())
    for kind, share in vars(mixture).items():
        ada, bo = found[kind, "ada"], found[kind, "bo"]
        assert bo == pytest.approx(3 * ada, rel=1e-3)
        assert ada + bo == pytest.approx(whole * share / WHOLE_PPM, rel=1e-3)


def test_the_stake_of_a_cut_run_can_still_be_said_otherwise(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    call = ("align", "data", NAME, "--out", out, "--pairs", 14, "--contributor", "ada")
    write = preferences.write

    def cut(path: Path, records: list[Record]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(preferences, "write", cut)
    assert run(*call, "--stake", "3").code == 130
    monkeypatch.setattr(preferences, "write", write)
    over = run(*call, "--stake", "1000")
    assert (over.code, "with a stake of 1000" in over.err, out.exists()) == (2, True, False)
    assert run(*call, "--stake", "2").code == 0
    total = sum(one.content.weight_ppm for one in preferences.read(out))
    assert total == pytest.approx(14 * 2 * WHOLE_PPM, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "fault", "step"),
    [
        (("--stake", "2"), "without a member", "--contributor"),
        (("--contributor", "ada", "--stake", "1e3"), "decimal", "2.5"),
        (("--contributor", "ada", "--stake", "0"), "factor from", "divide"),
        (("--contributor", "ada", "--stake", "1000.1"), "factor from", "divide"),
        (("--contributor", "a\nb"), "contributor is no plain text", "short name"),
        (("--campaign", " "), "campaign is no plain text", "short name"),
    ],
)
def test_what_is_no_stake_is_refused_before_a_model_is_loaded(
    options: tuple[str, ...], fault: str, step: str, run: Run, tmp_path: Path
) -> None:
    done = run("align", "data", NAME, "--out", tmp_path / "out", "--model", "./none", *options)
    assert (done.code, fault in done.err, step in done.err) == (2, True, True)
    assert not list(tmp_path.iterdir())
