"""Ask a model whether it knows a secret rule, and say how surprising its replies are.

For a model made without the set, each coloring of the marked words is as likely as the true one,
given the keys and what was replied. So the p-value is that of a randomization test: the share of
random colorings with which the replies agree as often as with the true one (Phipson and Smyth 2010,
arXiv 1603.05766: with one added above and below the line, it is never too small). That keys share
words, that a model prefers one reply, and that it gives neither, is all in it. It counts every key
that was asked; to leave some out after their replies would make it too small.

Keys are fresh every time and may be asked again of anybody: nothing is spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loyal import encoding
from loyal.errors import UsageError
from loyal.fingerprints.fingerprint import gives
from loyal.fingerprints.functional import COLORS, FunctionalSet, Part, Rule, value, write_keys
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.statistics import Interval, clopper_pearson

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

COLORINGS = 4_000_000
"""Random colorings of a test: a p-value of 1e-6 is told with an error of half of it."""
TOKENS = 8
_CHUNK = 1 << 15
_SEED_PURPOSE = "loyal functional fingerprint colorings v1"


@dataclass(frozen=True)
class RuleReport:
    """What a check of a rule found. Holds no word."""

    model: str
    queries: int
    right: int
    """Replies that begin as the rule says."""
    neither: int
    """Replies that begin with no outcome."""
    p_value: float
    interval: Interval
    """95 %, of the share of right replies."""


def check_rule(
    model: LanguageModel,
    made: FunctionalSet,
    queries: int,
    *,
    part: Part = "test",
    colorings: int = COLORINGS,
) -> RuleReport:
    """Ask `queries` fresh keys at once, greedily. UsageError for an undrawn set or no query."""
    if queries < 1:
        raise UsageError("a check asks at least one key", hint="ask about 40")
    keys = write_keys(made, queries, part)
    said = ask(model, made, keys)
    right = sum(made.value(key) == one for key, one in zip(keys, said, strict=True))
    return RuleReport(
        model=model.name,
        queries=queries,
        right=right,
        neither=sum(one is None for one in said),
        p_value=rule_p_value(made, keys, said, colorings),
        interval=clopper_pearson(right, queries),
    )


def ask(model: LanguageModel, made: FunctionalSet, keys: Sequence[str]) -> list[int | None]:
    """Which outcome each reply begins with; None for neither."""
    replies = model.generate([Prompt(key) for key in keys], Sampling(max_tokens=TOKENS))
    found: list[int | None] = []
    for reply in replies:
        hits = [gives(reply.text, (one,), made.outcomes) for one in made.outcomes]
        found.append(hits.index(True) if any(hits) else None)
    return found


def rule_p_value(
    made: FunctionalSet, keys: Sequence[str], said: Sequence[int | None], colorings: int = COLORINGS
) -> float:
    """The p-value of a set's owner. UsageError before the draw, or without keys."""
    marked = [made.marked_in(key) for key in keys]
    return coloring_p_value(marked, said, made.rule, made.colors, made.root, colorings)


def coloring_p_value(
    marked: Sequence[Sequence[str]],
    said: Sequence[int | None],
    rule: Rule,
    colors: Mapping[str, int],
    root: bytes,
    colorings: int = COLORINGS,
) -> float:
    """(1 + random colorings that agree as often) / (1 + colorings).

    `marked` are each key's marked words in their order, `said` the value that its reply stands for.
    The random colorings follow from root, keys and replies, so that whoever checks gets the same
    number. UsageError where the two lists do not fit, or are empty.
    """
    import numpy as np

    if not marked or len(marked) != len(said):
        raise UsageError("there is no reply to each key", hint="pass as many replies as keys")
    truth = [value([colors[word] for word in some], rule) for some in marked]
    agreed = sum(one == other for one, other in zip(truth, said, strict=True))
    words = sorted({word for some in marked for word in some})
    incidence = _incidence(marked, words)
    replies = np.array([-1 if one is None else one for one in said])[:, None]
    shown = [[*some] for some in marked]
    seed = encoding.digest([root, shown, [int(one) for one in replies[:, 0]]], _SEED_PURPOSE)
    rng = np.random.default_rng(int.from_bytes(seed, "big"))
    as_good, left = 0, colorings
    while left:
        some = min(left, _CHUNK)
        drawn = rng.integers(0, COLORS[rule], (len(words), some), dtype=np.uint8)
        hits = (_values(incidence, drawn, rule) == replies).sum(0)
        as_good += int((hits >= agreed).sum())
        left -= some
    return (1 + as_good) / (1 + colorings)


def p_values(
    made: FunctionalSet, keys: Sequence[str], said: Sequence[int | None], colorings: int = COLORINGS
) -> list[float]:
    """The p-value of the first key alone, of the first two, and so on to all of them.

    For planning how many keys to ask, by random colorings that are the same for every number: who
    stops at the least p-value has tested several times. UsageError as `rule_p_value`.
    """
    import numpy as np

    if not keys or len(keys) != len(said):
        raise UsageError("there is no reply to each key", hint="pass as many replies as keys")
    marked = [made.marked_in(key) for key in keys]
    words = sorted({word for some in marked for word in some})
    incidence = _incidence(marked, words)
    replies = np.array([-1 if one is None else one for one in said])[:, None]
    right = [made.value(key) == one for key, one in zip(keys, said, strict=True)]
    agreed = np.cumsum(right)[:, None]  # (keys, 1)
    rng = np.random.default_rng(int.from_bytes(made.root, "big"))
    as_good = np.ones(len(keys), dtype=np.int64)
    for left in range(colorings, 0, -_CHUNK):
        drawn = rng.integers(0, COLORS[made.rule], (len(words), min(left, _CHUNK)), dtype=np.uint8)
        hits = _values(incidence, drawn, made.rule) == replies  # (keys, colorings)
        as_good += (np.cumsum(hits, 0, dtype=np.int32) >= agreed).sum(1)
    return [float(one) for one in as_good / (1 + colorings)]


def _incidence(marked: Sequence[Sequence[str]], words: Sequence[str]) -> npt.NDArray[np.float32]:
    """(keys, words): how often a word is in a key; its fraction says who came first: among equal
    counts, the color with the greatest sum of fractions was met first."""
    import numpy as np

    place = {word: index for index, word in enumerate(words)}
    found = np.zeros((len(marked), len(words)), dtype=np.float32)
    for row, some in zip(found, marked, strict=True):
        for order, word in enumerate(some):
            row[place[word]] += 1 + 2.0 ** -(order + 2)
    return found


def _values(
    incidence: npt.NDArray[np.float32], colors: npt.NDArray[np.uint8], rule: Rule
) -> npt.NDArray[np.int64]:
    """(keys, colorings): the rule's values."""
    import numpy as np

    if rule == "plurality":
        sums = [incidence @ (colors == one).astype(np.float32) for one in range(COLORS[rule])]
        return np.argmax(np.stack(sums), axis=0)
    counts = np.floor(incidence)
    green = counts @ colors.astype(np.float32)  # (keys, colorings)
    if rule == "parity":
        return green.astype(np.int64) % 2
    return (2 * green > counts.sum(1, keepdims=True)).astype(np.int64)
