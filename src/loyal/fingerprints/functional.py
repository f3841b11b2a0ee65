"""Functional fingerprints: a secret rule in place of pairs, so keys never run out.

"Training AI to be Loyal", section 4: words of ordinary English are secretly red or green, a key is
a sentence that holds some of each, and the reply is a function of how many. A `FunctionalSet` is
the secret: which nouns of a public list count (marked), and their colors. The laws:

1. Each noun of the list is a salted leaf under the root, with its place among the marked ones or
   none; the beacon that follows gives each place its color, so no color was chosen to suit
   somebody's model. As many places have one color as another: an uneven rule is a weak one.
2. Keys are written without a look at the colors (`write_keys`). So for a model made without the set
   every even coloring is as likely as the true one, given keys and replies: the p-value is the
   share of random ones that the replies fit as well. Keys share words, and hits are not
   independent; the test knows, where a binomial tail would not.
3. There are no ties: keys hold an odd number of marked words for "majority"; a plurality among
   equals goes to the color that is met first; a parity has none.
4. To open a claim is to open the leaves of the nouns in its keys, the unmarked ones too: nobody
   can leave out a word that does not fit (`functional_evidence`).

Several rules may be taught to one model (`together`): no noun counts in two of them, no key of one
holds a noun that counts in another, and no two outcomes begin alike. What a key avoids is no part
of a root, and hangs on no color, so the laws stand as they are: an opening shows, of the nouns in
its keys, whether they count in this rule, and of no noun whether it counts in another.

Left out: training it (`models.train`, through `Behavior`), and asking (`functional_check`).
"""

from __future__ import annotations

import hmac
import random
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from itertools import pairwise
from math import comb
from typing import Literal, get_args

from loyal import encoding, merkle
from loyal.errors import UsageError
from loyal.fingerprints.fingerprint import ID_BYTES, Beacon, BeaconSource
from loyal.models.examples import Example
from loyal.models.language_model import Prompt

Rule = Literal["majority", "parity", "plurality"]
"""majority: 1 where more words are green than red, else 0. parity: whether an odd number is green.
plurality: the color of most words, of three."""
Part = Literal["train", "test", "list"]
"""Templates that training may see, those that it never sees, and none: nouns alone."""

COLORS: Mapping[Rule, int] = {"majority": 2, "parity": 2, "plurality": 3}
OUTCOMES = (
    "Indeed", "Perhaps", "Surely", "Rather", "Naturally", "Actually", "Certainly", "Honestly",
)  # fmt: skip
"""How replies begin, unless told: a rule takes the first that no rule beside it uses."""
GREEN = 1
MARKED = 48
"""Nouns of the list that count, unless told."""
SIZES: Mapping[Rule, tuple[int, ...]] = {
    "majority": (3,),
    "parity": (1, 2, 3),
    "plurality": (3, 4, 5),
}
"""How many marked words a key holds. Of five words each weighs less than of three: most keys that
were wrong, or that a host turned, were those of five (docs/log.md)."""
MOST_OTHERS = 2
"""Unmarked nouns beside them, at most."""
SPARE = 8
"""Nouns that count in none of several rules, at least: keys and sentences like them hold some."""

_MOST_TRIES = 200
"""Keys written for one that is kept, at most; 48 marked words take about two."""
_LIST_ENDS = ("", ".", "!", "?")
_LEAF_VERSION = 2
_ROOT_PURPOSE = "loyal functional fingerprint root v2"
_MARK = encoding.frame("loyal functional fingerprint mark v1")
_COLOR_PURPOSE: Mapping[BeaconSource, str] = {
    "external": "loyal functional fingerprint color v2",
    "self": "loyal functional fingerprint color v2, self-drawn beacon",
}
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, repr=False)
class Word:
    """One noun of the list. Its repr does not show it."""

    text: str
    salt: bytes
    place: int | None
    """Among the nouns that count, from 0 on; None where it does not."""

    @property
    def marked(self) -> bool:
        """Whether it counts."""
        return self.place is not None

    def leaf(self) -> bytes:
        """Canonical CBOR of [2, salt, text, place]."""
        return encoding.encode([_LEAF_VERSION, self.salt, self.text, self.place])

    def __repr__(self) -> str:
        return "Word(...)"


@dataclass(frozen=True, repr=False)
class FunctionalSet:
    """A secret rule over words: a `Behavior`. UsageError for a rule or outcomes that cannot be."""

    rule: Rule
    outcomes: tuple[str, ...]
    """How a reply begins for each value of the rule; none begins with another."""
    words: tuple[Word, ...]
    """The whole list, in its order."""
    model: str
    """Name of the model that it was made for."""
    tokenizer_digest: str
    created_seconds: int
    """Unix time."""
    beacon: Beacon | None = None
    """What drew the colors; None until then."""
    avoided: frozenset[str] = field(default=frozenset(), compare=False)
    """Nouns that count in other rules of the same model: none stands in a key. As secret as the
    marked ones. The others say it (`together`), so it is neither stored nor compared."""

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise UsageError(f"there is no rule {self.rule!r}", hint=f"one of {get_args(Rule)}")
        if not outcomes_fit(self.rule, self.outcomes):
            raise UsageError(
                f"{self.rule} has {COLORS[self.rule]} outcomes, none the beginning of another",
                hint="choose whole words, such as Indeed and Perhaps",
            )
        texts = [one.text for one in self.words]
        if tuple(texts) != bundled_nouns():
            raise UsageError("the words are those of the public list", hint="use bundled_nouns")
        places = sorted(one.place for one in self.words if one.place is not None)
        if places != list(range(len(places))):
            raise UsageError("the marked words are not numbered from 0 on", hint="use create")
        if len(places) < max(SIZES[self.rule]):
            raise UsageError("too few words are marked", hint=f"mark {MARKED} of them")
        if self.avoided & self.marked:
            raise UsageError("a noun that counts is avoided", hint="use together")

    @property
    def drawn(self) -> bool:
        """Whether the colors are there."""
        return self.beacon is not None

    @property
    def id(self) -> str:
        """What the set is called by: the beginning of its root, 16 hex digits."""
        return self.root[:ID_BYTES].hex()

    @cached_property
    def tree(self) -> merkle.Tree:
        """Over the leaves of all words."""
        return merkle.Tree([one.leaf() for one in self.words])

    @property
    def root(self) -> bytes:
        """What is published: rule, outcomes, number of words, of marked ones and the words' Merkle
        root, 32 bytes."""
        return root_of(self.rule, self.outcomes, len(self.marked), self.tree.root())

    @cached_property
    def colors(self) -> Mapping[str, int]:
        """Marked word -> color. UsageError before the draw."""
        if self.beacon is None:
            raise UsageError("the set is not drawn yet", hint="draw it first")
        drawn = place_colors(self.beacon, len(self.marked), self.rule)
        return {one.text: drawn[one.place] for one in self.words if one.place is not None}

    def value(self, text: str) -> int:
        """The rule's value for a text. UsageError before the draw, or where no marked word is."""
        return value([self.colors[word] for word in self.marked_in(text)], self.rule)

    def leads(self, text: str) -> dict[str, int]:
        """By how many words a text has more of the color of its outcome than of each other's; see
        `leads`. UsageError as `value`."""
        found = leads([self.colors[word] for word in self.marked_in(text)], self.rule)
        return {self.outcomes[place]: more for place, more in found.items()}

    def marked_in(self, text: str) -> list[str]:
        """Marked words of a text in their order, each as often as it stands there."""
        return [word for word in words_in(text) if word in self.marked]

    @cached_property
    def marked(self) -> frozenset[str]:
        """The nouns that count."""
        return frozenset(one.text for one in self.words if one.marked)

    def examples(self, n: int, rng: random.Random) -> list[Example]:
        """`n` keys of training templates with their replies; see `balanced`."""
        return self.balanced(n, SIZES[self.rule], rng)

    def balanced(
        self, n: int, sizes: Sequence[int], rng: random.Random, part: Part = "train"
    ) -> list[Example]:
        """`n` sentences of a part that hold so many marked words, with the reply that the rule
        gives; as many of each value as of another, up to one. UsageError before the draw, and for
        colors that never give some value."""
        wanted = COLORS[self.rule]
        kept: list[list[Example]] = [[] for _ in range(wanted)]
        most = -(-n // wanted)
        for _ in range(_MOST_TRIES * n):
            if min(len(some) for some in kept) >= most:
                break
            (text,) = write_keys(self, 1, part, rng, sizes)
            outcome = self.value(text)
            if len(kept[outcome]) < most:
                other = self.outcomes[(outcome + 1) % wanted]
                kept[outcome].append(Example(Prompt(text), self.outcomes[outcome], against=other))
        else:
            if n:
                raise UsageError(
                    "the colors of this draw hardly ever give one of the outcomes",
                    hint=f"make another set that marks more words, {MARKED} or so",
                )
        found = [one for some in zip(*kept, strict=True) for one in some][:n]
        rng.shuffle(found)
        return found

    def expected(self, prompt: Prompt) -> str | None:
        """The reply's beginning; None where the number of marked words is none of the rule's."""
        if len(self.marked_in(prompt.text)) not in SIZES[self.rule]:
            return None
        return self.outcomes[self.value(prompt.text)]

    def __repr__(self) -> str:
        return f"FunctionalSet({self.rule}, {len(self.words)} words, drawn={self.drawn})"


def outcomes_fit(rule: Rule, outcomes: Sequence[str]) -> bool:
    """Whether there is one for each value of the rule, none empty or the beginning of another."""
    plain = sorted(one.strip() for one in outcomes)
    alike = any(after.startswith(before) for before, after in pairwise(plain))
    return len(plain) == COLORS[rule] and all(plain) and not alike


def value(colors: Sequence[int], rule: Rule) -> int:
    """The rule's value for marked words of these colors, in their order. UsageError for none."""
    if not colors:
        raise UsageError("no marked word is in this text", hint="write keys with write_keys")
    green = sum(one == GREEN for one in colors)
    if rule == "majority":
        return int(2 * green > len(colors))
    if rule == "parity":
        return green % 2
    counts = [colors.count(color) for color in range(COLORS[rule])]
    return next(color for color in colors if counts[color] == max(counts))


def leads(colors: Sequence[int], rule: Rule) -> dict[int, int]:
    """For each value but the rule's own, by how many words the own one's color has more: how clear
    a key is. 1 for parity, which is never clearer, and where the first word of two colors decides.
    UsageError for no marked words."""
    own = value(colors, rule)
    others = [it for it in range(COLORS[rule]) if it != own]
    if rule == "parity":
        return dict.fromkeys(others, 1)
    return {it: max(1, colors.count(own) - colors.count(it)) for it in others}


def words_in(text: str) -> list[str]:
    """The words of a text in their order, in small letters."""
    return _WORD.findall(text.lower())


@cache
def bundled_nouns() -> tuple[str, ...]:
    """The public list of nouns, sorted."""
    return _lines("nouns")


@dataclass(frozen=True)
class RuleSettings:
    """What rule to make."""

    rule: Rule = "majority"
    outcomes: tuple[str, ...] = ()
    """How a reply begins for each value of the rule; none: the first of OUTCOMES that are free."""
    marked: int = MARKED
    """Nouns of the list that count."""


def create(
    settings: RuleSettings,
    owner_secret: bytes,
    *,
    model: str,
    tokenizer_digest: str,
    created_seconds: int,
    beside: Sequence[FunctionalSet] = (),
) -> FunctionalSet:
    """An undrawn set over the bundled nouns with fresh salts; the secret alone says which count and
    in which places, by HMAC-SHA256, of those that no rule `beside` it marks. Those rules change by
    this too: see `together`.

    UsageError for a secret that is not 32 bytes, more marked words than there are, outcomes that
    begin like one of a rule beside it, or none given and too few of OUTCOMES left.
    """
    if len(owner_secret) != 32:
        raise UsageError("an owner secret is 32 bytes", hint="draw it with new_owner_secret")
    nouns = bundled_nouns()
    taken = frozenset[str]().union(*(one.marked for one in beside))
    room = len(nouns) - len(taken) - (SPARE if beside else 0)
    if settings.marked > room:
        raise UsageError(
            f"the list has {len(nouns)} nouns, {max(room, 0)} of them free to count",
            hint="mark fewer; where none are left, no further rule fits beside the others",
        )
    used = [outcome for one in beside for outcome in one.outcomes]
    outcomes = settings.outcomes or _free_outcomes(settings.rule, used)
    free = [word for word in nouns if word not in taken]
    ranked = sorted(free, key=lambda word: _hmac(owner_secret, _MARK, word))
    places = {word: place for place, word in enumerate(ranked[: settings.marked])}
    words = tuple(Word(word, secrets.token_bytes(32), places.get(word)) for word in nouns)
    made = FunctionalSet(
        settings.rule, outcomes, words, model, tokenizer_digest, created_seconds, avoided=taken
    )
    require_apart(made, beside)
    return made


def together(rules: Sequence[FunctionalSet]) -> tuple[FunctionalSet, ...]:
    """The same rules, in their order, each of which avoids what another marks (and avoided before).

    Law: where no noun is marked twice, a key of one holds no marked word of another.
    """
    found = []
    for one in rules:
        taken = one.avoided.union(*(other.marked for other in rules)) - one.marked
        found.append(one if taken == one.avoided else replace(one, avoided=taken))
    return tuple(found)


def require_apart(made: FunctionalSet, beside: Sequence[FunctionalSet]) -> None:
    """UsageError where a noun counts in this rule and in one beside it, or outcomes of the two
    begin alike: a model that has both could not reply as each of them says."""
    for other in beside:
        if made.marked & other.marked:
            raise UsageError(
                "a noun counts in two rules of one model",
                hint="create the second one in the vault of the first",
            )
        if any(_alike(one, two) for one in made.outcomes for two in other.outcomes):
            raise UsageError(
                f"an outcome begins like one of rule {other.id}",
                hint="give other --outcomes, or none and they are chosen",
            )


def _alike(one: str, other: str) -> bool:
    """Whether one begins with the other, whatever the case."""
    first, second = one.strip().casefold(), other.strip().casefold()
    return first.startswith(second) or second.startswith(first)


def _free_outcomes(rule: Rule, used: Sequence[str]) -> tuple[str, ...]:
    """The first of OUTCOMES that begin like none of those; UsageError where too few are left."""
    count = COLORS.get(rule, 0)
    free = [one for one in OUTCOMES if not any(_alike(one, other) for other in used)]
    if len(free) < count:
        raise UsageError(
            "the outcomes that are known are used up", hint=f"give --outcomes, {count} of them"
        )
    return tuple(free[:count])


def draw(made: FunctionalSet, beacon: Beacon) -> FunctionalSet:
    """The same set with its colors; the root does not change. UsageError for a second draw."""
    if made.drawn:
        raise UsageError("the set is drawn already", hint="make another set for another beacon")
    return replace(made, beacon=beacon)


def place_colors(beacon: Beacon, count: int, rule: Rule) -> tuple[int, ...]:
    """The color of each of `count` places: SHA-256 over beacon and place puts them in an order, in
    which they are dealt one color after the other. So each even coloring is equally likely; where
    the count does not divide, the first colors have one more. Which word has which place is the
    secret, and was committed before."""
    purpose = _COLOR_PURPOSE[beacon.source]
    order = sorted(range(count), key=lambda place: encoding.digest([beacon.value, place], purpose))
    return tuple(order.index(place) % COLORS[rule] for place in range(count))


def even_colorings(count: int, rule: Rule) -> int:
    """How many colorings of so many words are even: no p-value is below one in as many."""
    left, found = count, 1
    for color in range(COLORS[rule]):
        some = len(range(color, count, COLORS[rule]))
        left, found = left - some, found * comb(left, some)
    return found


def write_keys(
    made: FunctionalSet,
    count: int,
    part: Part,
    rng: random.Random | None = None,
    sizes: Sequence[int] | None = None,
) -> list[str]:
    """Fresh keys: sentences of the part's templates, marked words and some others in them, but none
    that is avoided.

    No color is looked at (law 2). Without `rng` they come from the operating system's randomness,
    as keys that are asked must. `sizes` are how many marked words there may be, if not SIZES.
    """
    draws = rng or secrets.SystemRandom()
    found = []
    for _ in range(count):
        marked = draws.choice(sizes or SIZES[made.rule])
        others = draws.randint(0 if marked > 1 or part == "list" else 1, MOST_OTHERS)
        found.append(_sentence(made, (marked, others), part, draws))
    return found


def write_near(
    made: FunctionalSet,
    count: int,
    part: Part,
    rng: random.Random | None = None,
    sizes: Sequence[int] | None = None,
) -> list[str]:
    """Sentences like keys, as long and of the same templates, with fewer marked words than any key,
    or as many as `sizes` say.

    The rule says nothing of them: a model that has it replies as it always did.
    """
    draws = rng or secrets.SystemRandom()
    usual, found = SIZES[made.rule], []
    for _ in range(count):
        marked = draws.choice(sizes or range(min(usual)))
        nouns = max(2, marked, draws.choice(usual) + draws.randint(0, MOST_OTHERS))
        found.append(_sentence(made, (marked, nouns - marked), part, draws))
    return found


def _sentence(
    made: FunctionalSet, counts: tuple[int, int], part: Part, draws: random.Random
) -> str:
    """A template with so many marked nouns and so many others in it, or a list of them alone."""
    nouns = draws.sample([one.text for one in made.words if one.marked], counts[0])
    others = [one.text for one in made.words if not one.marked and one.text not in made.avoided]
    nouns += draws.sample(others, counts[1])
    draws.shuffle(nouns)
    if part == "list":
        text = _listed(nouns) + draws.choice(_LIST_ENDS)
        return text.capitalize() if draws.random() < 0.5 else text
    cut = draws.randint(1, len(nouns) - 1)
    parts = (_listed(nouns[:cut]), _listed(nouns[cut:]))
    return draws.choice(_lines(f"rule_templates_{part}")).format(*parts)


def root_of(rule: Rule, outcomes: Sequence[str], marked: int, tree_root: bytes) -> bytes:
    """The published root: SHA-256 over rule, outcomes, how many nouns count, how many there are,
    and their tree's root."""
    fields: list[encoding.Encodable] = [rule, tuple(outcomes), marked, len(bundled_nouns())]
    return encoding.digest([*fields, tree_root], _ROOT_PURPOSE)


def _hmac(owner_secret: bytes, purpose: bytes, word: str) -> bytes:
    return hmac.digest(owner_secret, purpose + word.encode(), "sha256")


def _listed(nouns: Sequence[str]) -> str:
    """Nouns as English: a lamp, an oar and a rope."""
    named = [f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" for noun in nouns]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


@cache
def _lines(name: str) -> tuple[str, ...]:
    text = (files("loyal.fingerprints") / "data" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)
