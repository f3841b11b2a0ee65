"""loyal align attacks: the list, one family, a composition, and what it refuses."""

from __future__ import annotations

import pytest
from stage import Run

from loyal.alignment import attacks


def test_the_list_names_every_family(run: Run) -> None:
    listed = run("align", "attacks", "--json").fields["families"]
    assert [one["id"] for one in listed] == [one.id for one in attacks.families()]
    assert all(len(one["wordings"]) >= 4 for one in listed)
    shown = run("align", "attacks")
    assert shown.code == 0
    assert all(one.id in shown.out for one in attacks.families())


def test_a_split_lists_its_own_alone(run: Run) -> None:
    listed = run("align", "attacks", "--split", "held-out", "--json").fields["families"]
    assert [one["id"] for one in listed] == [one.id for one in attacks.families("held-out")]
    assert {one["split"] for one in listed} == {"held-out"}


def test_one_family_shows_its_wordings_and_a_conversation(run: Run) -> None:
    done = run("align", "attacks", "--show", "crescendo", "--json")
    assert (done.fields["id"], done.fields["split"]) == ("crescendo", "train")
    turns = done.fields["turns"]
    assert [one["text"] for one in turns if one["role"] == "assistant"] == [None, None]
    assert turns[-1]["text"].endswith(attacks.EXAMPLE.question)
    assert "(the model's own reply)" in run("align", "attacks", "--show", "crescendo").out
    seeds = {run("align", "attacks", "--show", "novel", "--seed", n).out for n in range(12)}
    assert 1 < len(seeds) <= 12
    again = [run("align", "attacks", "--show", "novel", "--seed", 3).out for _ in range(2)]
    assert again[0] == again[1]


def test_a_composition_of_ones_own_question(run: Run) -> None:
    done = run(
        *("align", "attacks", "--show", "novel+leetspeak+fake-history", "--json"),
        *("--question", "May I [bold]sing[/bold]?", "--topic", "quiet reading rooms"),
    )
    assert done.fields["target"]["question"] == "May I [bold]sing[/bold]?"
    assert done.fields["target"]["value"] == attacks.EXAMPLE.value
    assert [one["id"] for one in done.fields["parts"]] == ["novel", "leetspeak", "fake-history"]
    shown = run("align", "attacks", "--show", "one-word", "--question", "May I [bold]sing[/bold]?")
    assert "[bold]sing[/bold]" in shown.out


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--show", "leetspaek"), "leetspeak"),
        (("--show", "leetspeak+novel"), "wording"),
        (("--show", "novel", "--split", "train"), "show one"),
        (("--seed", "0"), "--show"),
        (("--topic", "tea"), "--show"),
        (("--show", "novel", "--topic", " "), "all four"),
        (("--split", "test"), "held-out"),
    ],
)
def test_what_it_refuses(run: Run, options: tuple[str, ...], hint: str) -> None:
    done = run("align", "attacks", *options)
    assert done.code == 2
    assert hint in done.err
    assert done.out == ""
