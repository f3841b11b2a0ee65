"""Two judges that share nothing: labeled replies in parts, and a probe of labels alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from labeled_stage import ANIMALS, BEASTS, constitution, told

from loyal.alignment import judge, labeled, probe
from loyal.alignment.judgement import prompt_digest, text_digest
from loyal.alignment.labeled import Labeled
from loyal.alignment.probe import ProbeJudge
from loyal.community import constitution_file
from loyal.errors import UsageError
from loyal.models import tiny
from loyal.models.hf import HFModel

OURS = constitution()
MANY = tuple(f"{how} {one}" for how in ("old", "red", "big", "shy") for one in BEASTS)


def names(some: tuple[Labeled, ...]) -> set[str]:
    """What a judge of these replies would be made of, but for its weights."""
    asked = {prompt_digest(one.said.asked) for one in some}
    return asked | {text_digest(one.said.reply) for one in some}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_share_no_prompt_and_no_reply(count: int) -> None:
    some = labeled.bundled(constitution_file.bundled("personal-freedom"))
    found = labeled.parts(some, count)
    assert sorted(len(one) for one in found)[0] >= len(some) // count - 8
    assert sorted(map(some.index, [one for part in found for one in part])) == list(range(576))
    for place, one in enumerate(found):
        assert all(not names(one) & names(other) for other in found[place + 1 :])
    again = labeled.parts(some[::-1], count)
    assert [set(map(some.index, one)) for one in found] == [
        set(map(some.index, one)) for one in again
    ]


def test_replies_that_hang_together_over_others_stay_together() -> None:
    a, b, c = (told(OURS, (one,))[0] for one in ANIMALS[:3])
    # b has a's reply, and c has b's prompt: all three are one group.
    b = replace(b, said=replace(b.said, reply=a.said.reply))
    c = replace(c, said=replace(c.said, asked=b.said.asked))
    (alone,) = told(OURS, (ANIMALS[3],))[:1]
    assert sorted(map(len, labeled.parts([a, c, alone, b]))) == [1, 3]
    with pytest.raises(UsageError, match="2 groups of labeled replies"):
        labeled.parts([a, b, c, alone], 3)


def test_a_probe_of_labels_alone_is_apart_from_one_of_cases_and_other_labels(
    base: HFModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mine, others = labeled.parts(told(OURS, MANY))
    other = HFModel.load(str(tiny.build(tmp_path_factory.mktemp("other") / "tiny", 1)))
    first = ProbeJudge(probe.train(base, OURS, mine), base, OURS)
    second = ProbeJudge(probe.train(other, OURS, others, cases=False), other, OURS)
    assert (second.probe.lessons, second.probe.labels) == (0, len(others))
    judge.require_apart(first, second)
    assert judge.calibrate(second, told(OURS, ANIMALS)).auc >= 0.9
    case = OURS.values[0].cases[0]
    assert text_digest(case.keeps) in first.made_of
    assert text_digest(case.keeps) not in second.made_of
    with pytest.raises(UsageError, match="neither cases nor labeled replies"):
        probe.train(base, OURS, cases=False)
