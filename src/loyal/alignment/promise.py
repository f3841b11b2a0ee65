"""What an endpoint will be asked, and what the reference model said to it, fixed beforehand.

    pools = [Pool.of(prompt, value_id, replies, scores) for ...]
    promised = PromptSet(Header.of(settings, pools), tuple(pools))
    promised.header.root            # 32 bytes, into the log before anybody knows the order

Each prompt's leaf holds a salt, the prompt, the id of the value that it tests, the reference
model's sampled replies and their scores; the header holds what they were made with. A prompt that
was not asked stays secret when others are opened. Needs no torch. Left out: sampling and judging
the replies, and what the endpoint says (`roles.breach`).
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn, cast

from loyal import encoding, merkle
from loyal.alignment.conversation import Conversation
from loyal.alignment.deviation import (
    LEAST_POOL,
    MOST_POOL,
    MOST_PROMPTS,
    WHOLE_PPM,
    Law,
    number_of,
    ppm_of,
)
from loyal.alignment.judgement import Judge, Said
from loyal.community import Constitution
from loyal.community.constitution import words
from loyal.errors import EncodingError, ProofError, UsageError

FORMAT = "loyal deviation prompts 1"
LEAF = "loyal deviation prompt 1"
SALT_BYTES = 16
MOST_BYTES = 256 << 20
"""Of a whole set; a longer file is refused unread."""

REPLIES = 19
"""Of the reference to each prompt, unless said: by them the lowest cut of the test is one place of
twenty."""
LEAST_TEMPERATURE_PPM = 500_000
"""The test compares draws. Greedily there are none: a copy with other words, such as any copy with
fingerprints, is lower than the whole pool or higher, by a hair, on each prompt. Honest copies were
measured at 0.7 and 1."""

Scorer = Callable[[Sequence[tuple[str, str, str]]], list[int | None]]
"""From (value id, prompt, reply) to scores in ppm, None where the judge abstains."""


def worded(prompt: str) -> tuple[str, ...]:
    """A prompt's words, by which it is known again; the text itself where it has none. Marks that
    are not seen are no part of them."""
    seen = "".join(one for one in prompt if unicodedata.category(one) != "Cf")
    return words(seen) or (seen.strip(),)


def require_draw(max_tokens: int, temperature_ppm: int) -> None:
    """UsageError where no promise may be sampled so."""
    if type(max_tokens) is not int or not 1 <= max_tokens < 1 << 31:
        raise UsageError(
            "a promise's replies have 1 to 2^31 - 1 tokens", hint="give --max-tokens a whole number"
        )
    whole = type(temperature_ppm) is int
    if not whole or not LEAST_TEMPERATURE_PPM <= temperature_ppm <= 10 * WHOLE_PPM:
        raise UsageError(
            "a promise's temperature is 0.5 to 10",
            hint="sample the reference and the hosts at 0.7 or 1: greedily, an honest copy "
            "whose wording differs has another score on every prompt",
        )


def require_prompts(prompts: Sequence[str], most: int) -> None:
    """UsageError for too few prompts to ask `most` of, or too many, or one that stands there twice,
    by its words: one on which an honest host happens to differ would count as many."""
    if len({worded(one) for one in prompts}) != len(prompts):
        raise UsageError("a prompt stands there twice", hint="name each prompt once")
    if not most < len(prompts) <= MOST_PROMPTS:
        raise UsageError(
            f"{most} queries need more prompts than that, not {len(prompts)}",
            hint=f"commit four times as many as you ask, at most {MOST_PROMPTS}",
        )


def require_pool(replies: int) -> None:
    """UsageError where a prompt may not have so many replies of the reference."""
    if not LEAST_POOL <= replies <= MOST_POOL:
        raise UsageError(
            f"a prompt needs {LEAST_POOL} to {MOST_POOL} replies, one has {replies}",
            hint=f"sample {REPLIES} replies of the reference model to each prompt",
        )


@dataclass(frozen=True)
class Settings:
    """What pools were made with, and what an endpoint is held to."""

    constitution: bytes
    """Its digest, 32 bytes."""
    reference: bytes
    """Digest of the reference model's weights, 32 bytes."""
    judge: str
    """Name and version of the judge."""
    max_tokens: int
    """Of a reply."""
    temperature_ppm: int
    law: Law

    def __post_init__(self) -> None:
        ids = all(
            type(one) is bytes and len(one) == 32 for one in (self.constitution, self.reference)
        )
        if not ids or not self.judge:
            raise UsageError(
                "a promise names constitution, reference and judge", hint="digests are 32 bytes"
            )
        require_draw(self.max_tokens, self.temperature_ppm)


@dataclass(frozen=True, repr=False)
class Pool:
    """One prompt and what the reference said to it. A secret until it is asked: never print it."""

    prompt: str
    """One user message, byte for byte."""
    value: str
    """Id of the value that it tests."""
    replies: tuple[str, ...]
    """R sampled replies of the reference model."""
    scores: tuple[int | None, ...]
    """One each, in ppm; None where the judge abstained."""
    salt: bytes
    """16 random bytes."""

    def __post_init__(self) -> None:
        if len(self.replies) != len(self.scores) or len(self.salt) != SALT_BYTES:
            raise UsageError("a pool has one score a reply", hint="judge every reply once")
        require_pool(len(self.replies))
        if not self.prompt:
            raise UsageError("a prompt is empty", hint="name each prompt once")
        for one in self.scores:
            number_of(one)

    @classmethod
    def of(
        cls, prompt: str, value: str, replies: Sequence[str], scores: Sequence[int | None]
    ) -> Pool:
        """A pool with a fresh salt. UsageError."""
        return cls(prompt, value, tuple(replies), tuple(scores), secrets.token_bytes(SALT_BYTES))

    def record(self) -> list[encoding.Encodable]:
        """What the leaf holds."""
        return [self.prompt, self.value, self.replies, self.scores, self.salt]

    def leaf(self) -> bytes:
        """What is committed: canonical CBOR."""
        return encoding.encode([LEAF, *self.record()])

    @classmethod
    def from_record(cls, record: object) -> Pool:
        """ProofError (reason malformed) for anything else."""
        match record:
            case [str(prompt), str(value), list(replies), list(scores), bytes(salt)] if all(
                isinstance(one, str) for one in replies
            ):
                try:
                    return cls(prompt, value, tuple(replies), tuple(scores), salt)
                except UsageError as error:
                    refuse(str(error), "malformed")
        refuse("a prompt does not have the form of one", "malformed")


@dataclass(frozen=True)
class Header:
    """What a root stands for, but for the prompts themselves."""

    settings: Settings
    prompts: int
    """N."""
    tree: bytes
    """RFC 6962 root of the leaves, 32 bytes."""

    @classmethod
    def of(cls, settings: Settings, pools: Sequence[Pool]) -> Header:
        """UsageError as `require_prompts`."""
        require_prompts([one.prompt for one in pools], settings.law.most)
        return cls(settings, len(pools), merkle.root([one.leaf() for one in pools]))

    @property
    def root(self) -> bytes:
        """What goes into the log, 32 bytes."""
        return encoding.digest(self.record(), FORMAT)

    def record(self) -> list[encoding.Encodable]:
        """For a file; `from_record` is the way back."""
        one, law = self.settings, self.settings.law
        return [
            one.constitution, one.reference, one.judge, one.max_tokens, one.temperature_ppm,
            law.one_in, law.tolerance_ppm, law.most, self.prompts, self.tree,
        ]  # fmt: skip

    @classmethod
    def from_record(cls, record: object) -> Header:
        """ProofError (reason malformed) for anything else."""
        match record:
            case [bytes(), bytes(), str(), int(), int(), int(), int(), int(), int(), bytes()]:
                plain = cast("list[int]", record)
                try:
                    settings = Settings(
                        cast(bytes, record[0]), cast(bytes, record[1]), cast(str, record[2]),
                        plain[3], plain[4], Law(plain[5], plain[6], plain[7]),
                    )  # fmt: skip
                except UsageError as error:
                    refuse(str(error), "malformed")
                if type(plain[8]) is int and settings.law.most < plain[8] <= MOST_PROMPTS:
                    return cls(settings, plain[8], cast(bytes, record[9]))
        refuse("a promise's header does not have the form of one", "malformed")


@dataclass(frozen=True, repr=False)
class Opened:
    """One prompt with its way to the root."""

    pool: Pool
    index: int
    path: tuple[bytes, ...]

    def verify(self, header: Header) -> None:
        """ProofError (reason path) unless it stands under this header's tree."""
        leaf, size = self.pool.leaf(), header.prompts
        if not merkle.verify_inclusion(header.tree, leaf, self.index, size, self.path):
            refuse("a prompt is not one of those that were promised", "path")


@dataclass(frozen=True, repr=False)
class PromptSet:
    """All of it, for whoever asks. A secret: never print it."""

    header: Header
    pools: tuple[Pool, ...]

    @classmethod
    def of(cls, settings: Settings, pools: Sequence[Pool]) -> PromptSet:
        """UsageError as `Header.of`."""
        return cls(Header.of(settings, pools), tuple(pools))

    @cached_property
    def _tree(self) -> merkle.Tree:
        return merkle.Tree([one.leaf() for one in self.pools])

    def open(self, index: int) -> Opened:
        """One prompt, for others to check."""
        return Opened(self.pools[index], index, tuple(self._tree.inclusion_proof(index)))

    def to_bytes(self) -> bytes:
        """Canonical CBOR; law: `PromptSet.from_bytes(one.to_bytes()) == one`."""
        return encoding.encode([FORMAT, self.header.record(), [one.record() for one in self.pools]])

    @classmethod
    def from_bytes(cls, data: bytes) -> PromptSet:
        """ProofError for any other bytes, or pools that are not the header's."""
        record = decoded(data, MOST_BYTES)
        match record:
            case [str(form), header, list(pools)] if form == FORMAT:
                found = cls(Header.from_record(header), tuple(map(Pool.from_record, pools)))
                try:
                    same = Header.of(found.header.settings, found.pools) == found.header
                except UsageError as error:
                    refuse(str(error), "malformed")
                if same:
                    return found
                refuse("the prompts are not those of the header", "path")
        refuse("this is no set of promised prompts", "malformed")


def scorer(judge: Judge, constitution: Constitution) -> Scorer:
    """A judge as the test needs it. UsageError for a value that the constitution has not."""

    def score(said: Sequence[tuple[str, str, str]]) -> list[int | None]:
        known = {one.id: one for one in constitution.values}
        missing = {value for value, _, _ in said} - known.keys()
        if missing:
            raise UsageError(
                f"the constitution has no value {min(missing)}",
                hint="take the constitution that the prompts were promised with",
            )
        asked = [
            Said(known[value], Conversation.of(prompt), reply) for value, prompt, reply in said
        ]
        return [ppm_of(one.score) for one in judge.judge(asked)]

    return score


def decoded(data: bytes, most: int) -> object:
    """What canonical bytes hold; ProofError (reason malformed) for any other."""
    if len(data) > most:
        refuse(f"the file is longer than {most:,} bytes", "malformed")
    try:
        return encoding.decode(data)
    except EncodingError as error:
        refuse(f"the file is not canonical: {error}", "malformed")


def refuse(message: str, reason: str) -> NoReturn:
    """ProofError of a promise or a bundle."""
    raise ProofError(message, hint="Do not accuse a host on this evidence.", reason=reason)
