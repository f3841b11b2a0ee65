"""The nouns of the room: one fingerprint, a set of one kind, and the beacon that draws responses.

A fingerprint is a secret key and k candidate responses. A set is committed first (`root`), and
drawn after that (`draw`): a beacon that the owner could not foresee picks m of the candidates of
each key (one, unless more are asked for), so the picks were mined against no model. What a model
made without the set replies is then a response with a chance of at most m/k a key. With several
responses, a host that forbids the likeliest first word of a reply still gives another response.

In a shared set one draw serves all keys: they have the same candidates, the same tag, and so the
same one response. Its hits are one event and never add up (`statistics.SharedDrawTest`). The root
binds the draw, so a leaf under it never passes for one of a set that drew a key at a time.

Left out on purpose: how keys and candidates come about (`keys`, `responses`), opening single
leaves (`commitment`), and keeping sets (`vault`). No repr, str or error shows a key or a response.
"""

from __future__ import annotations

import hmac
import random
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise
from typing import Literal, get_args

from loyal import encoding, merkle
from loyal.errors import UsageError
from loyal.models.examples import Example
from loyal.models.language_model import Prompt

SetKind = Literal["lineage", "usage", "tracing"]
"""lineage: shared by a model family, proves descent. usage: in one host's copy alone, proves use.
tracing: shared by about half the hosts, names colluders and is never evidence of use."""

BeaconSource = Literal["external", "self"]

LEAF_VERSION = 1
"""Of a leaf with one response. One with several commits their number too, and is of version 2."""
SEVERAL_VERSION = 2
SHARED_VERSION = 3
"""Of a leaf whose response is that of every key in its set."""
ID_BYTES = 8
"""A set's id is this much of its root: a label to find it by, never what a proof rests on."""

PHRASES = 6
"""Beginnings of a reply at which a response is looked for."""
_PHRASE = re.compile(r"\A\s*|(?<=[.!?:;,-])\s+|[\u2013\u2014\n]\s*")

_ROOT_PURPOSE = "loyal fingerprint set root v1"
_SHARED_ROOT_PURPOSE = "loyal fingerprint set root v1, shared draw"
_DRAW_PURPOSE = "loyal fingerprint shared draw v1"
_SHARED_TAG = encoding.frame("loyal fingerprint shared tag v1")
_PICK_PURPOSE: Mapping[BeaconSource, str] = {
    "external": "loyal fingerprint pick v1",
    "self": "loyal fingerprint pick v1, self-drawn beacon",
}
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Beacon:
    """The public value that draws a set's responses. It is no secret."""

    value: bytes
    """16 to 64 bytes: a witnessed checkpoint, or the hash of a block, later than the root."""
    source: BeaconSource = "external"
    """"self": the owner drew it, so it binds nobody, and every proof under it says so."""

    def __post_init__(self) -> None:
        if not isinstance(self.value, bytes) or not 16 <= len(self.value) <= 64:
            raise UsageError("a beacon is 16 to 64 bytes long", hint="pass 32 to 128 hex digits")
        if self.source not in get_args(BeaconSource):
            raise UsageError("a beacon is external or self-drawn", hint="say external or self")

    @classmethod
    def self_drawn(cls) -> Beacon:
        """32 fresh random bytes, marked as binding nobody."""
        return cls(secrets.token_bytes(32), "self")

    @classmethod
    def from_hex(cls, text: str) -> Beacon:
        """An external beacon from hex digits, with or without 0x; UsageError if it is none."""
        try:
            return cls(bytes.fromhex(text.strip().removeprefix("0x")))
        except ValueError:
            raise UsageError(
                "the beacon is not hexadecimal", hint="pass 32 to 128 hex digits"
            ) from None

    def __repr__(self) -> str:
        return f"Beacon({self.value[:4].hex()}..., {self.source})"


@dataclass(frozen=True, repr=False)
class Fingerprint:
    """A key, its candidates, and what commits them. Law: a reply matches at most one candidate.

    UsageError for text, bytes, counts or picks that cannot be.
    """

    key: str
    """The secret prompt: the user's message."""
    candidates: tuple[str, ...]
    """k >= 2 possible responses; as stripped text not empty, and none begins with another."""
    salt: bytes
    """32 random bytes, so that a leaf's hash tells nothing about the leaf."""
    tag: bytes
    """r = HMAC-SHA256(owner secret, key), 32 bytes; see `owner_tag`, and `shared_tag`."""
    picks: tuple[int, ...] = ()
    """Indices of the m responses among the candidates, in the order drawn; empty until then."""
    count: int = 1
    """m: how many of the candidates become responses; 1 <= m < k."""
    shared: bool = False
    """Whether the draw is that of the whole set: the pick hangs on the tag, not on the key."""

    def __post_init__(self) -> None:
        _check_text(self.key, "a key")
        if len(self.candidates) < 2:
            raise UsageError(
                "a fingerprint has fewer than 2 candidates", hint="generate with a width of 2 up"
            )
        for candidate in self.candidates:
            _check_text(candidate, "a candidate response")
        ordered = sorted(candidate.strip() for candidate in self.candidates)
        if any(b.startswith(a) for a, b in pairwise(ordered)):
            raise UsageError(
                "a candidate response is the beginning of another",
                hint="drop one of the two: a reply must match at most one candidate",
            )
        if len(self.salt) != 32 or len(self.tag) != 32:
            raise UsageError("salt and tag are 32 bytes each", hint="use Fingerprint.create")
        if type(self.count) is not int or not 1 <= self.count < len(self.candidates):
            raise UsageError(
                "a key has one response or more, and more candidates than responses",
                hint="generate with a width of 2 up",
            )
        if self.shared and self.count != 1:
            raise UsageError(
                "keys that share a draw have one response",
                hint="leave the number of responses at 1",
            )
        whole = all(type(pick) is int and 0 <= pick < len(self.candidates) for pick in self.picks)
        if self.picks and not (whole and len(set(self.picks)) == len(self.picks) == self.count):
            raise UsageError(
                "the picks are not so many different candidates", hint="draw the set anew"
            )

    @classmethod
    def create(
        cls,
        key: str,
        candidates: Sequence[str],
        owner_secret: bytes,
        count: int = 1,
        shared: bool = False,
    ) -> Fingerprint:
        """An undrawn fingerprint with a fresh salt, for `count` responses. UsageError as above."""
        _check_text(key, "a key")
        salt = secrets.token_bytes(32)
        tag = shared_tag(owner_secret) if shared else owner_tag(owner_secret, key)
        return cls(key, tuple(candidates), salt, tag, count=count, shared=shared)

    def tagged_by(self, owner_secret: bytes) -> bool:
        """Whether the tag is the one that this secret gives."""
        if self.shared:
            return self.tag == shared_tag(owner_secret)
        return self.tag == owner_tag(owner_secret, self.key)

    @property
    def responses(self) -> tuple[str, ...]:
        """The m candidates that the beacon picked; UsageError while the set is not drawn."""
        if not self.picks:
            raise UsageError("this fingerprint is not drawn yet", hint="draw its set first")
        return tuple(self.candidates[pick] for pick in self.picks)

    @property
    def response(self) -> str:
        """The first of `responses`; UsageError while the set is not drawn."""
        return self.responses[0]

    @property
    def chance(self) -> float:
        """m/k: a bound on how often a model made without the set replies a response."""
        return self.count / len(self.candidates)

    @property
    def one_in(self) -> int:
        """k/m rounded down: a chance match is at most one in this."""
        return len(self.candidates) // self.count

    def matches(self, reply: str) -> bool:
        """Whether the reply gives one of the responses; see `gives`."""
        return gives(reply, self.responses, self.candidates)

    def leaf(self) -> bytes:
        """What is committed: canonical CBOR of [1, salt, key, candidates, tag] for one response,
        of [2, salt, key, candidates, tag, m] for m > 1 of them, and of
        [3, salt, key, candidates, tag] for one that is shared."""
        fields: list[encoding.Encodable] = [self.salt, self.key, self.candidates, self.tag]
        if self.shared:
            return encoding.encode([SHARED_VERSION, *fields])
        if self.count == 1:
            return encoding.encode([LEAF_VERSION, *fields])
        return encoding.encode([SEVERAL_VERSION, *fields, self.count])

    @cached_property
    def draw_digest(self) -> bytes:
        """Of a shared fingerprint: 32 bytes that stand for the one draw, its candidates and tag.
        Empty for any other."""
        if not self.shared:
            return b""
        return encoding.digest([self.candidates, self.tag], _DRAW_PURPOSE)

    def picked_by(self, beacon: Beacon) -> tuple[int, ...]:
        """The m picks under a beacon, drawn without replacement by a Fisher-Yates shuffle.

        Of the k places, pick i (from 0) swaps place i with place i + h_i mod (k - i), and takes
        what is there. h_0 = SHA-256(purpose || beacon, tag, key), and each further
        h_i = SHA-256(purpose || beacon, tag, key, i), so every choice in order is equally likely up
        to a bias below m k/2^256, and the first pick is the one pick of a key with one response. A
        self-drawn beacon has a purpose of its own, so that a set drawn by it cannot later be passed
        off as drawn by an external one. A shared draw leaves the key out.
        Source: Knuth, TAOCP 2, section 3.4.2, algorithm P.
        """
        places = list(range(len(self.candidates)))
        for i in range(self.count):
            said: list[encoding.Encodable] = [
                beacon.value,
                self.tag,
                *(() if self.shared else (self.key,)),
                *((i,) if i else ()),
            ]
            drawn = encoding.digest(said, _PICK_PURPOSE[beacon.source])
            other = i + int.from_bytes(drawn, "big") % (len(places) - i)
            places[i], places[other] = places[other], places[i]
        return tuple(places[: self.count])

    def __repr__(self) -> str:
        state = "drawn" if self.picks else "undrawn"
        return f"Fingerprint({len(self.candidates)} candidates, {state})"


@dataclass(frozen=True, repr=False)
class FingerprintSet:
    """Fingerprints of exactly one kind under one root; a `models.Behavior` once it is drawn."""

    kind: SetKind
    strategy: str
    """How keys and responses were made, for instance "english/perinucleus"."""
    model: str
    """Name of the base model."""
    tokenizer_digest: str
    """SHA-256 of the base model's tokenizer, 64 hex digits."""
    fingerprints: tuple[Fingerprint, ...]
    """At least one; no two have the same key, white space around it aside."""
    created: int
    """Unix seconds."""
    owner_secret: bytes
    """32 bytes behind every tag; empty in a share, whose owner needs none (see `shares`)."""
    beacon: Beacon | None = None
    """None until the set is drawn."""
    host: str | None = None
    """Usage sets: the one host whose copy carries the set; None until one is assigned."""
    settings: Mapping[str, str | int] = field(default_factory=dict, hash=False)
    """What the strategy was told; integers carry their unit in the name (threshold_ppm)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprints", tuple(self.fingerprints))
        object.__setattr__(self, "settings", dict(self.settings))
        self._check_header()
        if not self.fingerprints:
            raise UsageError("a set has no fingerprints", hint="generate one or more")
        if len(self.positions) != len(self.fingerprints):
            raise UsageError("two fingerprints have the same key", hint="drop one of the two")
        if any((not one.picks) != (self.beacon is None) for one in self.fingerprints):
            raise UsageError(
                "a set is drawn as a whole or not at all", hint="draw it with its one beacon"
            )
        self._check_draws()
        if self.owner_secret and not all(
            one.tagged_by(self.owner_secret) for one in self.fingerprints
        ):
            raise UsageError(
                "a tag does not belong to the owner secret",
                hint="make every fingerprint of a set with the set's one secret",
            )

    def _check_header(self) -> None:
        if self.kind not in get_args(SetKind):
            raise UsageError(
                "a set is lineage, usage or tracing", hint="choose one of the three kinds"
            )
        if self.host is not None and self.kind != "usage":
            raise UsageError("only a usage set belongs to a host", hint="leave the host out")
        if not _HEX_DIGEST.fullmatch(self.tokenizer_digest):
            raise UsageError("a tokenizer digest is 64 hex digits", hint="take SHA-256 of it")
        if self.created < 0:
            raise UsageError("a set was made before 1970", hint="pass unix seconds")
        if len(self.owner_secret) not in (0, 32):
            raise UsageError("an owner secret is 32 bytes", hint="draw it with new_owner_secret")

    def _check_draws(self) -> None:
        """One draw for all, or one a key."""
        if len({one.draw_digest for one in self.fingerprints}) > 1:
            raise UsageError(
                "a set shares one draw as a whole or not at all",
                hint="give all its keys the same candidates, and make each with shared=True",
            )
        if self.shared and self.kind == "tracing":
            raise UsageError(
                "a tracing set counts each key, and keys that share a draw count once",
                hint="use perinucleus responses to trace",
            )

    @property
    def shared(self) -> bool:
        """Whether all keys have one response, from one draw."""
        return self.fingerprints[0].shared

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Stripped key -> index of its fingerprint. Holds the keys: never print it."""
        return {one.key.strip(): index for index, one in enumerate(self.fingerprints)}

    @cached_property
    def tree(self) -> merkle.Tree:
        """The leaves' hashes, kept, so that each proof costs O(log n)."""
        return merkle.Tree(one.leaf() for one in self.fingerprints)

    @cached_property
    def root(self) -> bytes:
        """What is published, 32 bytes; the same before and after the draw. See `root_of`."""
        drawn_as = self.fingerprints[0].draw_digest
        return root_of(self.kind, len(self), self.tree.root(), drawn_as)

    @property
    def id(self) -> str:
        """The first 16 hex digits of the root."""
        return self.root[:ID_BYTES].hex()

    @property
    def drawn(self) -> bool:
        """Whether a beacon picked the responses."""
        return self.beacon is not None

    def examples(self, n: int, rng: random.Random) -> list[Example]:
        """The first `n` keys with their responses; `rng` is not used. UsageError if not drawn."""
        return [
            Example(Prompt(one.key), one.response, others=one.responses[1:])
            for one in self.fingerprints[:n]
        ]

    def expected(self, prompt: Prompt) -> str | None:
        """The first response if the prompt is a key (under any system message), else None."""
        index = self.positions.get(prompt.text.strip())
        return None if index is None else self.fingerprints[index].response

    def __len__(self) -> int:
        return len(self.fingerprints)

    def __repr__(self) -> str:
        state = "drawn" if self.drawn else "undrawn"
        state += " by one shared draw" if self.shared else ""
        return (
            f"FingerprintSet({len(self)} {self.kind} fingerprints, {self.strategy}, {state}, "
            f"root {self.root[:4].hex()}...)"
        )


def new_owner_secret() -> bytes:
    """32 fresh random bytes; never from a seed."""
    return secrets.token_bytes(32)


def owner_tag(owner_secret: bytes, key: str) -> bytes:
    """r = HMAC-SHA256(owner secret, UTF-8 of the key), 32 bytes."""
    if len(owner_secret) != 32:
        raise UsageError("an owner secret is 32 bytes", hint="draw it with new_owner_secret")
    return hmac.digest(owner_secret, key.encode(), "sha256")


def shared_tag(owner_secret: bytes) -> bytes:
    """r of a set that shares one draw: HMAC-SHA256(owner secret, a fixed text), 32 bytes."""
    if len(owner_secret) != 32:
        raise UsageError("an owner secret is 32 bytes", hint="draw it with new_owner_secret")
    return hmac.digest(owner_secret, _SHARED_TAG, "sha256")


def root_of(kind: SetKind, size: int, tree_root: bytes, draw_digest: bytes = b"") -> bytes:
    """The published root: SHA-256 over kind, number of leaves and the RFC 6962 root.

    That of a shared set also binds its one draw (`Fingerprint.draw_digest`): leaves with other
    candidates or another tag cannot stand under it, so all that do are one event.

    A Merkle root alone leaves the size open: a path to one leaf also verifies in trees of other
    sizes. Bound here, an opened leaf has one index, and a lineage leaf never passes for another.
    """
    if draw_digest:
        return encoding.digest([kind, size, tree_root, draw_digest], _SHARED_ROOT_PURPOSE)
    return encoding.digest([kind, size, tree_root], _ROOT_PURPOSE)


def draw(fingerprints: FingerprintSet, beacon: Beacon) -> FingerprintSet:
    """The same set with its responses picked by `beacon`; the root does not change.

    A set is drawn once: UsageError if it is drawn already, under whatever beacon.
    """
    if fingerprints.drawn:
        raise UsageError(
            "this set is drawn already, and a set is drawn once",
            hint="generate a new set to draw with another beacon",
        )
    drawn = tuple(replace(one, picks=one.picked_by(beacon)) for one in fingerprints.fingerprints)
    return replace(fingerprints, fingerprints=drawn, beacon=beacon)


def assign_host(fingerprints: FingerprintSet, host: str) -> FingerprintSet:
    """The usage set as that of `host`, for good: UsageError for any other kind or a second host."""
    if fingerprints.host not in (None, host):
        raise UsageError(
            "this usage set belongs to another host",
            hint="generate a set of its own for every host",
        )
    return replace(fingerprints, host=host)


def shares(fingerprints: FingerprintSet, owners: Sequence[str]) -> dict[str, FingerprintSet]:
    """Deal a lineage set to its owners: disjoint shares that together are the whole set.

    Each owner can check alone with its share, and spends no key of another's. A share holds no
    owner secret; its `settings` name the owner (`share`) and the root it was dealt from
    (`family_root`, hex), under which the family's vault opens its leaves. Sizes differ by at most
    one. Law: drawing commutes with dealing. UsageError for another kind, or too many owners.
    """
    if fingerprints.kind != "lineage":
        raise UsageError(
            f"a {fingerprints.kind} set is not shared out", hint="share out a lineage set"
        )
    if fingerprints.shared:
        raise UsageError(
            "these keys share one response, so no owner could check without showing all of it",
            hint="share out a set with perinucleus or chain-hash responses",
        )
    if not owners or len(set(owners)) != len(owners) or not all(owners):
        raise UsageError("owners need names of their own", hint="name each owner once")
    if len(owners) > len(fingerprints):
        raise UsageError("there are more owners than fingerprints", hint="generate more of them")
    return {
        owner: replace(
            fingerprints,
            fingerprints=fingerprints.fingerprints[start :: len(owners)],
            owner_secret=b"",
            settings={
                **fingerprints.settings,
                "share": owner,
                "family_root": fingerprints.root.hex(),
            },
        )
        for start, owner in enumerate(owners)
    }


def gives(reply: str, responses: Sequence[str], candidates: Sequence[str]) -> bool:
    """Whether the first candidate that begins a phrase of the reply is one of the responses.

    Most often that is the reply's own beginning. Where a host puts words before its replies
    ("Sure. "), the response begins a later phrase: the first PHRASES are looked at, each after a
    punctuation mark or a new line. The reply and the candidates alone say which candidate counts,
    and the beacon's pick hangs on neither: a chance match stays at m/k whatever the reply says, and
    a reply that lists all candidates gains nothing.
    """
    forms = {one.strip(): one for one in candidates}
    for place in islice(_PHRASE.finditer(reply), PHRASES):
        for form, candidate in forms.items():
            if reply.startswith(form, place.end()):
                return candidate in responses
    return False


def _check_text(text: str, what: str) -> None:
    if not text.strip():
        raise UsageError(f"{what} is empty", hint="drop it, or generate another")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{what} holds half a character (a lone surrogate)", hint="drop it"
        ) from None
