"""Ask a model whether it knows a secret rule, and say how surprising its replies are.

For a model made without the set, each even coloring of the marked words is as likely as the true
one, given the keys and what was replied. So the p-value is that of a randomization test: the share
of random ones with which the replies agree as often as with the true one (Phipson and Smyth 2010,
arXiv 1603.05766: with one added above and below the line, it is never too small). That keys share
words, that a model prefers one reply, and that it gives neither, is all in it. It counts every key
that was asked; to leave some out after their replies would make it too small.

Keys are fresh every time and may be asked again of anybody: nothing is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from loyal import encoding
from loyal.errors import UsageError
from loyal.fingerprints.fingerprint import gives
from loyal.fingerprints.functional import (
    COLORS,
    FunctionalSet,
    Part,
    Rule,
    value,
    words_in,
    write_keys,
)
from loyal.fingerprints.functional_recipe import COLORINGS, RuleCheckSettings
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.statistics import Interval, clopper_pearson

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CHUNK = 1 << 15
"""Colorings drawn at once. A part of what a seed means: another number gives other colorings."""
_SEED_PURPOSE = "loyal functional fingerprint colorings v2"


@dataclass(frozen=True, repr=False)
class Exchange:
    """One key and what was replied. Holds a secret: never print it."""

    key: str
    reply: str

    def __repr__(self) -> str:
        return "Exchange(...)"


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
    """Share of random colorings that the replies fit as well."""
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
    """Ask `queries` fresh keys greedily. UsageError for an undrawn set or no query."""
    settings = RuleCheckSettings(queries, colorings=colorings)
    known = owned(made)
    heard = exchanges(model, write_keys(made, queries, part), settings)
    return rule_report(model.name, known, heard, colorings)


def ask(model: LanguageModel, made: FunctionalSet, keys: Sequence[str]) -> list[int | None]:
    """Which outcome each greedy reply begins with; None for neither."""
    heard = exchanges(model, keys, RuleCheckSettings())
    return outcomes_of([one.reply for one in heard], made.outcomes)


def exchanges(
    model: LanguageModel,
    keys: Sequence[str],
    settings: RuleCheckSettings,
    on_asked: Callable[[int], None] = lambda _: None,
) -> list[Exchange]:
    """Each key with its reply, in their order. `on_asked` hears how many there are, each batch.

    Half a character, which a server can say in JSON, becomes U+FFFD: any reply can be kept.
    """
    sampling = Sampling(settings.tokens, settings.temperature)
    found: list[Exchange] = []
    for start in range(0, len(keys), settings.batch):
        some = keys[start : start + settings.batch]
        prompts = [Prompt(key, settings.system, settings.raw) for key in some]
        replies = model.generate(prompts, sampling)
        found += [Exchange(key, _whole(one.text)) for key, one in zip(some, replies, strict=True)]
        on_asked(len(found))
    return found


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True, repr=False)
class Known:
    """What somebody knows of a rule: its owner all of it, a verifier what was opened."""

    rule: Rule
    outcomes: tuple[str, ...]
    colors: Mapping[str, int]
    """Marked word -> color; every marked word of the keys in question is there."""
    places: int
    """How many nouns count, those that are not known among them."""
    root: bytes

    def marked_in(self, key: str) -> list[str]:
        """The marked words of a key in their order."""
        return [word for word in words_in(key) if word in self.colors]

    def __repr__(self) -> str:
        return f"Known({self.rule}, {len(self.colors)} words)"


def rule_report(
    name: str, known: Known, heard: Sequence[Exchange], colorings: int = COLORINGS
) -> RuleReport:
    """What all that was asked and replied says of the model called `name`.

    UsageError for no exchange, or a key without a marked word.
    """
    said = outcomes_of([one.reply for one in heard], known.outcomes)
    marked = [known.marked_in(one.key) for one in heard]
    p_value = coloring_p_value(known, marked, said, colorings)
    right = sum(
        value([known.colors[word] for word in some], known.rule) == one
        for some, one in zip(marked, said, strict=True)
    )
    neither = sum(one is None for one in said)
    interval = clopper_pearson(right, len(heard))
    return RuleReport(name, len(heard), right, neither, p_value, interval)


def renamed_p_value(known: Known, heard: Sequence[Exchange], colorings: int = COLORINGS) -> float:
    """The p-value if outcomes may have been swapped for each other: the least of all their orders,
    times the number of orders, at most 1. A host that serves each outcome as another one is found
    by it; who claims by this or by the plain p-value had two tries. UsageError as `rule_report`."""
    said = outcomes_of([one.reply for one in heard], known.outcomes)
    marked = [known.marked_in(one.key) for one in heard]
    orders = renamings(said, len(known.outcomes))
    least = min(coloring_p_value(known, marked, some, colorings) for some in orders)
    return min(1.0, len(orders) * least)


def renamings(said: Sequence[int | None], count: int) -> list[list[int | None]]:
    """The outcomes under each order of their names, as they are first."""
    return [
        [None if one is None else order[one] for one in said]
        for order in permutations(range(count))
    ]


def owned(made: FunctionalSet) -> Known:
    """What the owner of a set knows of it. UsageError before the draw."""
    return Known(made.rule, made.outcomes, made.colors, len(made.marked), made.root)


def outcomes_of(replies: Sequence[str], outcomes: Sequence[str]) -> list[int | None]:
    """Which outcome each reply begins with; None for neither."""
    found: list[int | None] = []
    for reply in replies:
        hits = [gives(reply, (one,), outcomes) for one in outcomes]
        found.append(hits.index(True) if any(hits) else None)
    return found


def rule_p_value(
    made: FunctionalSet, keys: Sequence[str], said: Sequence[int | None], colorings: int = COLORINGS
) -> float:
    """The p-value of a set's owner. UsageError before the draw, or without keys."""
    return coloring_p_value(owned(made), [made.marked_in(key) for key in keys], said, colorings)


def coloring_p_value(
    known: Known,
    marked: Sequence[Sequence[str]],
    said: Sequence[int | None],
    colorings: int = COLORINGS,
) -> float:
    """(1 + random even colorings that agree as often) / (1 + colorings).

    `marked` are each key's marked words in their order, `said` the value that its reply stands for.
    The random colorings follow from root, keys and replies, so that whoever checks gets the same
    number. UsageError where the two lists do not fit, or are empty.
    """
    if not marked or len(marked) != len(said):
        raise UsageError("there is no reply to each key", hint="pass as many replies as keys")
    replied = [-1 if one is None else one for one in said]
    agreed = int(_true_hits(known, marked, replied).sum())
    seed = encoding.digest([known.root, [[*some] for some in marked], replied], _SEED_PURPOSE)
    as_good = 0
    for hits in _drawn_hits(known, marked, replied, seed, colorings):
        as_good += int((hits.sum(0, dtype="uint32") >= agreed).sum())
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
    replied = [-1 if one is None else one for one in said]
    known = owned(made)
    right = _true_hits(known, marked, replied)
    agreed = np.cumsum(right, 0, dtype=np.uint32)  # (keys, 1)
    as_good = np.ones(len(keys), dtype=np.int64)
    for hits in _drawn_hits(known, marked, replied, made.root, colorings):
        as_good += (np.cumsum(hits, 0, dtype=np.uint32) >= agreed).sum(1)
    return [float(one) for one in as_good / (1 + colorings)]


def _true_hits(
    known: Known, marked: Sequence[Sequence[str]], replied: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """(keys, 1): whether each reply is what the true colors say. By the arithmetic of the random
    ones: a test is exact where both are counted alike, for keys of any length too."""
    import numpy as np

    words = sorted({word for some in marked for word in some})
    true = np.array([[known.colors[word]] for word in words], dtype=np.uint8)
    replies = np.array(replied, dtype=np.int8).view(np.uint8)[:, None]
    return _values(_incidence(marked, words), true.reshape(-1, 1), known.rule) == replies


def _drawn_hits(
    known: Known,
    marked: Sequence[Sequence[str]],
    replied: Sequence[int],
    seed: bytes,
    colorings: int,
) -> Iterator[npt.NDArray[np.bool_]]:
    """(keys, some) for some of the random colorings at a time: whether each reply, -1 for neither,
    is what they say."""
    import numpy as np

    words = sorted({word for some in marked for word in some})
    incidence = _incidence(marked, words)
    replies = np.array(replied, dtype=np.int8).view(np.uint8)[:, None]  # neither: 255
    rng = np.random.default_rng(int.from_bytes(seed, "big"))
    for left in range(colorings, 0, -_CHUNK):
        drawn = _dealt(rng, len(words), known, min(left, _CHUNK))
        yield _values(incidence, drawn, known.rule) == replies


def _dealt(rng: np.random.Generator, words: int, known: Known, many: int) -> npt.NDArray[np.uint8]:
    """(words, many): colors of the first places of so many random even colorings, dealt one place
    after the other from what is left of each color. Law: as likely as by shuffling all places."""
    import numpy as np

    colors, places = COLORS[known.rule], known.places
    left = [np.full(many, len(range(color, places, colors)), np.uint8) for color in range(colors)]
    drawn = np.zeros((words, many), dtype=np.uint8)
    for row, total in zip(drawn, range(places, places - words, -1), strict=True):
        ticket, edge = rng.integers(0, total, many, dtype=np.uint8), left[0]
        for color in range(1, colors):
            row += ticket >= edge
            edge = edge + left[color]
        for color, some in enumerate(left):
            some -= row == color
    return drawn


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
) -> npt.NDArray[np.uint8]:
    """(keys, colorings): the rule's values. In bytes: the widest arrays of the test."""
    import numpy as np

    if rule == "plurality":
        found = np.zeros((len(incidence), colors.shape[1]), dtype=np.uint8)
        most = incidence @ (colors == 0).astype(np.float32)
        for color in range(1, COLORS[rule]):
            here = incidence @ (colors == color).astype(np.float32)
            np.copyto(found, color, where=here > most)
            np.maximum(most, here, out=most)
        return found
    counts = np.floor(incidence)
    green = counts @ colors.astype(np.float32)  # (keys, colorings)
    if rule == "parity":
        return np.bitwise_and(green.astype(np.uint8), np.uint8(1))
    return (green > counts.sum(1, keepdims=True) / 2).view(np.uint8)
