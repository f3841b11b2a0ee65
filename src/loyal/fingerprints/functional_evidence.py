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

from loyal import encoding
from loyal.encoding import Value
from loyal.errors import EncodingError, ProofError, UsageError
from loyal.fingerprints.fingerprint import Beacon
from loyal.fingerprints.functional import Opening, Rule, Word, opened_colors, outcomes_fit
from loyal.fingerprints.functional_check import Exchange, Known, RuleReport, rule_report
from loyal.fingerprints.functional_recipe import COLORINGS

OPENING_VERSION = 1
MAX_OPENING_BYTES = 1 << 18
"""Every word of the list takes about 100,000."""
MOST_KEYS = 10_000
_KEYS_PURPOSE = "loyal functional fingerprint keys v1"


def keys_digest(keys: Sequence[str]) -> bytes:
    """32 bytes that stand for these keys in this order, and show none of them."""
    return encoding.digest(list(keys), _KEYS_PURPOSE)


def encode_opening(opening: Opening) -> bytes:
    """Canonical CBOR. Law: decode_opening(encode_opening(one)) == one."""
    words: list[encoding.Encodable] = [
        [word.text, word.salt, word.tag, word.marked, path] for word, path in opening.words
    ]
    fields = (opening.rule, opening.outcomes, opening.tree_root, words)
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
        case [1, str(rule), list(outcomes), bytes(root), list(words)] if _texts(outcomes):
            if rule not in get_args(Rule):
                _malformed("the opening names an unknown rule")
            known, outcome_texts = cast(Rule, rule), tuple(cast("list[str]", outcomes))
            if not outcomes_fit(known, outcome_texts):
                _malformed("the opening's outcomes are not those of such a rule")
            return Opening(known, outcome_texts, root, tuple(map(_word, words)))
        case [int(version), *_] if version != OPENING_VERSION:
            _malformed(f"the opening has version {version}, this loyal reads {OPENING_VERSION}")
    _malformed("the opening does not have the form of one")


def _word(row: Value) -> tuple[Word, tuple[bytes, ...]]:
    match row:
        case [str(text), bytes(salt), bytes(tag), bool(marked), list(path)] if all(
            type(one) is bytes for one in path
        ):
            return Word(text, salt, tag, marked), tuple(cast("list[bytes]", path))
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
    3. inclusion: each opened noun's leaf stands at the noun's place in the public list
    4. missing: every noun of the list that stands in a key is opened
    5. unmarked: each key holds a word that counts

    Without a digest 1 is left out, and `keys_fixed` says so.
    """
    keys = [one.key for one in heard]
    if digest is not None and keys_digest(keys) != digest:  # 1
        raise ProofError(
            "these are not the keys of the digest",
            hint="ask for all exchanges, in the order of the keys",
            reason="keys",
        )
    found = opened_colors(opening, root, beacon, keys)  # 2, 3, 4
    colors = {word: color for word, color in found.items() if color is not None}
    known = Known(opening.rule, opening.outcomes, colors, root)
    if not all(map(known.marked_in, keys)):  # 5
        raise ProofError(
            "a key holds no word that counts", hint="reject the claim", reason="unmarked"
        )
    report = rule_report("", known, heard, colorings)
    return RuleEvidence(report, known, len(found), digest is not None)


def _texts(values: list[Value]) -> bool:
    return all(type(one) is str for one in values)


def _whole(*texts: str) -> bool:
    """Whether no text holds half a character (a lone surrogate), which JSON can smuggle in."""
    return all(text.encode("utf-8", "ignore").decode() == text for text in texts)


def _malformed(message: str) -> NoReturn:
    raise ProofError(
        message, hint="get the opening again from whoever made it", reason="malformed"
    ) from None
