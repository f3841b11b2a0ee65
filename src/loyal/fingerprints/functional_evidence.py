"""What a claim about a secret rule consists of, as files, and how anybody checks it offline.

Three files: the keys (one a line), the exchanges (a JSON object a line: key and reply), and the
opening (canonical CBOR: the leaves of the nouns in the keys). Whoever has the published root and
the beacon that followed it computes the p-value from them, and gets the owner's.

What that p-value takes for granted: the keys were written without a look at the colors, and none
was left out after its reply. Who publishes the digest of its keys (`keys_digest`) before the beacon
is known has shown both; without that a verifier takes the asker's word. Left out: what an opening
gives away (docs/rules.md), and whose replies these are (the host's signature says so).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, cast, get_args

from loyal import encoding, merkle
from loyal.encoding import Value
from loyal.errors import EncodingError, ProofError, UsageError
from loyal.fingerprints.fingerprint import Beacon
from loyal.fingerprints.functional import (
    FunctionalSet,
    Rule,
    Word,
    bundled_nouns,
    outcomes_fit,
    place_colors,
    root_of,
    words_in,
)
from loyal.fingerprints.functional_check import Exchange, Known, RuleReport, rule_report
from loyal.fingerprints.functional_recipe import COLORINGS

OPENING_VERSION = 2
MAX_OPENING_BYTES = 1 << 18
"""Every word of the list takes about 100,000."""
MOST_KEYS = 10_000
_KEYS_PURPOSE = "loyal functional fingerprint keys v1"


@dataclass(frozen=True, repr=False)
class Opening:
    """Leaves of some words with their Merkle paths: all that a claim shows of the set.

    It holds no beacon: that is the verifier's, from where it was published.
    """

    rule: Rule
    outcomes: tuple[str, ...]
    marked: int
    """How many nouns of the list count."""
    tree_root: bytes
    words: tuple[tuple[Word, tuple[bytes, ...]], ...]
    """Each word with its audit path. Its index is its place in the public list."""

    def __repr__(self) -> str:
        return f"Opening({len(self.words)} words)"


def open_words(made: FunctionalSet, keys: Sequence[str]) -> Opening:
    """Open the leaves of every noun of the list that stands in one of the keys."""
    said = _nouns_in(keys)
    chosen = tuple(
        (one, tuple(made.tree.inclusion_proof(index)))
        for index, one in enumerate(made.words)
        if one.text in said
    )
    return Opening(made.rule, made.outcomes, len(made.marked), made.tree.root(), chosen)


def opened_colors(
    opening: Opening, root: bytes, beacon: Beacon, keys: Sequence[str]
) -> dict[str, int | None]:
    """Noun -> its color, None where it does not count, for every noun of the keys.

    `root` and `beacon` come from where they were published. A leaf counts at its noun's place in
    the public list alone, so nobody can commit a noun twice and show the leaf that suits, no noun
    of the list that stands in a key may be left out, and no two have one place: their colors would
    go together. ProofError where it does not hold.
    """
    nouns = bundled_nouns()
    size, tree_root = len(nouns), opening.tree_root
    known = 0 < opening.marked <= size
    if not known or root_of(opening.rule, opening.outcomes, opening.marked, tree_root) != root:
        _refuse("root", "this opening is of another set", "ask for the opening of this root")
    drawn = place_colors(beacon, opening.marked, opening.rule)
    found: dict[str, int | None] = {}
    places: set[int] = set()
    for word, path in opening.words:
        index = nouns.index(word.text) if word.text in nouns else -1
        if not merkle.verify_inclusion(tree_root, word.leaf(), index, size, path):
            _refuse("inclusion", "an opened word is not in the set", "ask for the opening again")
        if word.place is not None and (word.place in places or word.place not in range(len(drawn))):
            _refuse("place", "two words were given one place, or one that is not there",
                    "reject the claim")  # fmt: skip
        found[word.text] = None if word.place is None else drawn[word.place]
        places |= set() if word.place is None else {word.place}
    if _nouns_in(keys) - set(found):
        _refuse("missing", "a noun of the keys is not opened", "ask for an opening of all of them")
    return found


def keys_digest(keys: Sequence[str]) -> bytes:
    """32 bytes that stand for these keys in this order, and show none of them."""
    return encoding.digest(list(keys), _KEYS_PURPOSE)


def encode_opening(opening: Opening) -> bytes:
    """Canonical CBOR. Law: decode_opening(encode_opening(one)) == one."""
    words: list[encoding.Encodable] = [
        [word.text, word.salt, word.place, path] for word, path in opening.words
    ]
    fields = (opening.rule, opening.outcomes, opening.marked, opening.tree_root, words)
    return encoding.encode([OPENING_VERSION, *fields])


def decode_opening(data: bytes) -> Opening:
    """ProofError (reason malformed) for bytes that are no opening."""
    if len(data) > MAX_OPENING_BYTES:
        _malformed("the opening is too long for one")
    try:
        fields = encoding.decode(data)
    except EncodingError:
        _malformed("the opening's bytes are not canonical CBOR")
    match fields:
        case [2, str(rule), list(outcomes), int(marked), bytes(root), list(words)] if (
            _texts(outcomes) and type(marked) is int
        ):
            if rule not in get_args(Rule):
                _malformed("the opening names an unknown rule")
            known, outcome_texts = cast(Rule, rule), tuple(cast("list[str]", outcomes))
            if not outcomes_fit(known, outcome_texts):
                _malformed("the opening's outcomes are not those of such a rule")
            return Opening(known, outcome_texts, marked, root, tuple(map(_word, words)))
        case [int(version), *_] if version != OPENING_VERSION:
            _malformed(f"the opening has version {version}, this loyal reads {OPENING_VERSION}")
    _malformed("the opening does not have the form of one")


def _word(row: Value) -> tuple[Word, tuple[bytes, ...]]:
    match row:
        case [str(text), bytes(salt), int() | None as place, list(path)] if type(
            place
        ) is not bool and all(type(one) is bytes for one in path):
            return Word(text, salt, place), tuple(cast("list[bytes]", path))
    _malformed("an opened word does not have the form of one")


def encode_exchanges(heard: Sequence[Exchange]) -> bytes:
    """A JSON object a line. Law: decode_exchanges(encode_exchanges(heard)) == heard."""
    lines = (json.dumps({"key": one.key, "reply": one.reply}) for one in heard)
    return "".join(f"{line}\n" for line in lines).encode()


def decode_exchanges(text: str) -> list[Exchange]:
    """UsageError, which names the line and quotes nothing, for anything else."""
    found = []
    for number, line in _numbered(text):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        match record:
            case {"key": str(key), "reply": str(reply)} if _whole(key, reply):
                found.append(Exchange(key, reply))
            case _:
                raise UsageError(
                    f"line {number} is no exchange", hint='write {"key": "...", "reply": "..."}'
                )
    return found


def decode_keys(text: str) -> list[str]:
    """The keys of a file: one a line, or exchanges. UsageError for neither, or none."""
    if text.lstrip().startswith("{"):
        return [one.key for one in decode_exchanges(text)]
    return [line for _, line in _numbered(text)]


def _numbered(text: str) -> list[tuple[int, str]]:
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not 0 < len(lines) <= MOST_KEYS:
        raise UsageError(
            f"the file holds {len(lines)} lines", hint=f"give 1 to {MOST_KEYS} keys, one a line"
        )
    return lines


@dataclass(frozen=True)
class RuleEvidence:
    """What an opening and its exchanges have shown. Its repr shows no word."""

    report: RuleReport
    known: Known
    """The rule as far as it was opened."""
    opened: int
    """Nouns that the opening shows, the unmarked ones among them."""
    keys_fixed: bool
    """Whether the keys are those of a digest that the verifier brought."""


def verify_opening(
    opening: Opening,
    heard: Sequence[Exchange],
    root: bytes,
    beacon: Beacon,
    *,
    digest: bytes | None = None,
    colorings: int = COLORINGS,
) -> RuleEvidence:
    """Check a claim with what the verifier brings: root, beacon, and the digest of the keys.

    Bring them from where they were published, never from the claimant. Obligations, in this order;
    the first that fails raises ProofError with its reason:

    1. keys: the exchanges are over the keys of the digest, all of them, in their order
    2. root: rule, outcomes and tree make up this root
    3. inclusion: each opened noun's leaf stands where the noun does in the public list
    4. place: no two opened nouns have one place among those that count
    5. missing: every noun of the list that stands in a key is opened
    6. unmarked: each key holds a word that counts

    Without a digest 1 is left out, and `keys_fixed` says so.
    """
    keys = [one.key for one in heard]
    if digest is not None and keys_digest(keys) != digest:  # 1
        raise ProofError(
            "these are not the keys of the digest",
            hint="ask for all exchanges, in the order of the keys",
            reason="keys",
        )
    found = opened_colors(opening, root, beacon, keys)  # 2 to 5
    colors = {word: color for word, color in found.items() if color is not None}
    known = Known(opening.rule, opening.outcomes, colors, opening.marked, root)
    if not all(map(known.marked_in, keys)):  # 6
        raise ProofError(
            "a key holds no word that counts", hint="reject the claim", reason="unmarked"
        )
    report = rule_report("", known, heard, colorings)
    return RuleEvidence(report, known, len(found), digest is not None)


def _nouns_in(keys: Sequence[str]) -> set[str]:
    """Nouns of the public list that stand in the keys."""
    return {word for key in keys for word in words_in(key)} & set(bundled_nouns())


def _refuse(reason: str, message: str, hint: str) -> NoReturn:
    raise ProofError(message, hint=hint, reason=reason)


def _texts(values: list[Value]) -> bool:
    return all(type(one) is str for one in values)


def _whole(*texts: str) -> bool:
    """Whether no text holds half a character (a lone surrogate), which JSON can smuggle in."""
    return all(text.encode("utf-8", "ignore").decode() == text for text in texts)


def _malformed(message: str) -> NoReturn:
    raise ProofError(
        message, hint="get the opening again from whoever made it", reason="malformed"
    ) from None
