"""`loyal fingerprint attack`: rows as a table, as JSON, in a file, and as a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from stage import BEACON, SECRET_WORDS, Run, secret_set

from loyal.app import attack_page
from loyal.app.report import render, show
from loyal.fingerprints import Beacon, FingerprintSet, Identity, Recipients, Vault
from loyal.fingerprints.attack import Attack, AttackResult
from loyal.fingerprints.fingerprint import draw
from loyal.statistics import Interval

ONLY = ("--only", "int8", "--only", "merge-linear", "--only", "none")


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[object, ...]]:
    """The tiny model's folder, and the options of a vault whose set was made for it.

    Nobody injected the set: no key hits, and the command is the same.
    """
    from loyal.models import tiny
    from loyal.models.hf import HFModel

    folder = tmp_path_factory.mktemp("attack")
    model = tiny.build(folder / "tiny", 0)
    digest = HFModel.load(str(model), device="cpu").tokenizer_digest
    made = replace(secret_set(), model=str(model), tokenizer_digest=digest)
    identity = Identity.generate()
    (folder / "identity.txt").write_text(identity.text + "\n")
    vault = folder / "owner.vault"
    Vault.create(vault, draw(made, Beacon.self_drawn()), Recipients((identity.recipient,)))
    return model, ("--vault", vault, "--identity-file", folder / "identity.txt")


def test_rows_reach_stdout_a_file_and_a_page(run: Run, marked, tmp_path: Path) -> None:
    model, opening = marked
    rows, page = tmp_path / "rows.json", tmp_path / "page.html"
    arguments = ("fingerprint", "attack", model, *opening, *ONLY, "--results", rows)
    done = run(*arguments, "--out", page, "--json")
    assert done.code == 0, done.err
    found = done.fields["rows"]
    assert [one["name"] for one in found] == ["none", "int8", "merge-linear"]
    assert [(one["hits"], one["asked"], one["fraction"]) for one in found] == [(0, 5, 1.0)] * 3
    assert found[1]["perplexity_after"] != found[0]["perplexity_after"]
    kept = json.loads(rows.read_text())
    assert [one["name"] for one in kept["rows"]] == ["none", "int8", "merge-linear"]
    text = page.read_text()
    for words in ("merge-linear", "share of keys that still hit", "2203.05482", "<svg", "chance"):
        assert words in text
    again = run(*arguments)
    assert again.code == 0
    assert "merge-linear" in again.out
    assert "p after 100 keys" in again.out
    assert json.loads(rows.read_text()) == kept
    for said in (done.out, done.err, again.out, again.err, text, rows.read_text()):
        assert not any(word in said for word in SECRET_WORDS)


def test_another_run_does_not_go_on_from_the_file(run: Run, marked, tmp_path: Path) -> None:
    model, opening = marked
    rows = tmp_path / "rows.json"
    arguments = ("fingerprint", "attack", model, *opening, "--only", "none", "--results", rows)
    two = run(*arguments, "--only", "int8", "--skip", "int8", "--queries", 2, "--json")
    assert [one["name"] for one in two.fields["rows"]] == ["none"]
    refused = run(*arguments, "--queries", 3, "--json")
    assert (refused.code, "another model, set" in refused.fields["error"]) == (2, True)
    assert json.loads(rows.read_text())["rows"][0]["asked"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--only", "int3"), "no attack int3"),
        (("--skip", "int3"), "no attack int3"),
        (("--only", "int8", "--skip", "int8"), "every attack is skipped"),
        (("--leaked", "2"), "leaked is in"),
        (("--queries", "0"), "at least 1"),
        (("--fraction", "0"), "fraction"),
        (("--suite", "half"), "half"),
        (("--set-id", "zz"), "no set fits"),
    ],
)
def test_a_wrong_call_is_refused(run: Run, marked, options: tuple[str, ...], words: str) -> None:
    model, opening = marked
    done = run("fingerprint", "attack", model, *opening, *options, "--json")
    assert done.code == 2
    assert words in done.fields["error"]


def test_a_set_of_another_tokenizer_and_an_undrawn_one_are_refused(run: Run, marked, vault) -> None:
    model, _ = marked
    done = run("fingerprint", "attack", model, *vault.opening, "--json")
    assert (done.code, "not drawn" in done.fields["error"]) == (2, True)
    run("fingerprint", "commit", *vault.opening, "--beacon", BEACON)
    done = run("fingerprint", "attack", model, *vault.opening, "--json")
    assert (done.code, "tokenizer" in done.fields["error"]) == (2, True)


def row(name: str, family: str, hits: int, after: float | None = 10.1) -> AttackResult:
    return AttackResult(
        name, family, 50, hits, hits / 50, Interval(0.1, 0.9), 1e-9, 1e-9, 10.0, after, 0.98, 0.1,
        2.0,
    )  # fmt: skip


def test_the_page_groups_attacks_and_says_what_a_quick_run_is() -> None:
    made: FingerprintSet = draw(secret_set(), Beacon.self_drawn())
    results = (row("none", "none", 50), row("lora", "tuning", 20), row("hot", "sampling", 9, None))
    attacks = tuple(
        Attack(one.name, one.family, "What it does.", "a source", lambda scene: scene.model)
        for one in results
    )
    page = attack_page.page(attack_page.AttackRun("a-model", made, attacks, results, "now"))
    titles = [one.title for one in page.sections]
    assert titles[:3] == [f"{title}: share of keys that still hit" for title in attack_page.CHARTS]
    assert "A quick run" in titles
    facts = {one.label: (one.value, one.note) for one in page.facts}
    assert facts["least survival"] == (0.18, "hot")
    assert facts["proven after 100 keys"][0] == 3
    text = render(page)
    assert "used 10 % of their examples" in text
    assert not any(word in text for word in SECRET_WORDS)
    assert text.count("<svg") == 3
    table = attack_page.table(results)
    assert show(table.rows[0][8]) == "1"
    assert table.rows[2][7:9] == (None, None)


def test_lying_bars_have_a_name_each_and_grow_with_their_number() -> None:
    from loyal.app import charts
    from loyal.app.report import Chart, Series

    def drawn(count: int) -> str:
        names = tuple(f"attack-{n}" for n in range(count))
        values = tuple(n / count for n in range(count))
        series = Series("survival", names, values, values, tuple(one + 0.1 for one in values))
        return charts.draw(
            Chart("Rows", "", "share", (series,), "rows", threshold=0.06, threshold_label="luck")
        )

    def height(svg: str) -> float:
        return float(svg.split('viewBox="')[1].split('"')[0].split()[3])

    many, few = drawn(30), drawn(5)
    assert all(f"attack-{n}" in many for n in range(30))
    assert "luck" in few
    assert height(many) > 3 * height(few)
