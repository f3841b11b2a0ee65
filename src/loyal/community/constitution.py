"""What a community values, as one signed text: readable by people, by a model judge, by a lint.

A constitution is a preamble, general red lines, and values. A value is a statement that replies
keep or break, its weight against the others, why the community holds it, and cases: a prompt with
a reply that keeps the value, one that breaks it, or both (then they are a preference pair, the
form that training takes). "Training AI to be Loyal", section 3, is where the values come from: the
community writes them, not the maker of the model.

These records refuse what has no meaning (an id that is no slug, a text with control characters).
Whether a constitution is good, the lint says (lint.py). Left out on purpose: files
(constitution_file.py), signatures (approval.py), and any model.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from loyal import encoding
from loyal.encoding import Encodable
from loyal.encoding import Value as Plain
from loyal.errors import ConfigError, EncodingError

FORMAT = "loyal constitution 1"
"""First entry of the canonical record, and the purpose of its digest."""

WHOLE_BPS = 10_000
"""All weights together: 100 %."""

MOST_TEXT = 4_000
"""Characters of one text; of a preamble, ten times as many."""

MOST_VALUES = 100

_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")
_VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+(?:'[^\W{_NO_SPACES}]+)*")


def words(text: str) -> tuple[str, ...]:
    """The words of a text, case, marks and width aside; a letter each in scripts without spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return tuple(_WORD.findall(plain))


def one_paragraph(text: str) -> str:
    """The text with every run of white space as one space; what files are read as."""
    return " ".join(text.split())


def paragraphs(text: str) -> str:
    """The text with its paragraphs, each as one line, an empty line between them."""
    parts = (one_paragraph(part) for part in re.split(r"\n[^\S\n]*\n", text.replace("\r\n", "\n")))
    return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Exchange:
    """One prompt and one reply to it."""

    prompt: str
    reply: str


@dataclass(frozen=True)
class Case:
    """A prompt that puts a value to the test, and replies to it. ConfigError without any reply."""

    prompt: str
    """What a user says, one paragraph."""
    keeps: str = ""
    """A reply that keeps the value; empty for none."""
    breaks: str = ""
    """A reply that breaks the value; empty for none."""

    def __post_init__(self) -> None:
        _require_text("a prompt", self.prompt)
        _require_text("a reply that keeps", self.keeps)
        _require_text("a reply that breaks", self.breaks)
        if not self.prompt:
            raise _refused("a case has no prompt", "write what a user would say")
        if not (self.keeps or self.breaks):
            raise _refused("a case has no reply", "give keeps, breaks, or both")


@dataclass(frozen=True)
class RedLine:
    """What no reply may do, whatever else speaks for it."""

    rule: str
    """For people and judges, one paragraph. ConfigError for an empty one."""
    phrases: tuple[str, ...] = ()
    """Words that cross it literally, so that a program finds them too; may be empty."""

    def __post_init__(self) -> None:
        _require_text("a red line", self.rule)
        if not self.rule:
            raise _refused("a red line has no rule", "say what no reply may do")
        for phrase in self.phrases:
            _require_text("a phrase of a red line", phrase)
            if not words(phrase):
                raise _refused("a phrase of a red line has no words", "take it out")

    def crossed_by(self, reply: str) -> str | None:
        """The first phrase that stands in the reply, as whole words in any case; None for none."""
        said = _spoken(reply)
        return next((one for one in self.phrases if _spoken(one) in said), None)


@dataclass(frozen=True)
class Value:
    """One thing that the community holds, in a form that replies can be tested against."""

    id: str
    """Lower-case words with hyphens, such as `reader-privacy`; 64 characters at most."""
    statement: str
    """What a reply does that keeps the value, one paragraph."""
    weight_bps: int
    """Its share against the others, hundredths of a percent: 0 to 10,000."""
    why: str = ""
    """Why the community holds it, one paragraph."""
    topics: tuple[str, ...] = ()
    """What conversations it is about, for whoever writes more prompts; no commas."""
    red_lines: tuple[RedLine, ...] = ()
    """What no reply may do in this value's name or against it."""
    cases: tuple[Case, ...] = ()
    """What it means in practice, in the author's order."""

    def __post_init__(self) -> None:
        require_id("a value's id", self.id)
        _require_text("a statement", self.statement)
        _require_text("a why", self.why)
        if type(self.weight_bps) is not int or not 0 <= self.weight_bps <= WHOLE_BPS:
            raise _refused(
                f"the weight of {self.id} is not a whole number from 0 to {WHOLE_BPS}",
                "give hundredths of a percent: 1500 is 15 %",
            )
        for topic in self.topics:
            _require_text("a topic", topic)
            if not topic or "," in topic:
                raise _refused(f"a topic of {self.id} is empty or has a comma", "name one a topic")

    @property
    def keeps(self) -> tuple[Exchange, ...]:
        """The exchanges that keep it."""
        return tuple(Exchange(one.prompt, one.keeps) for one in self.cases if one.keeps)

    @property
    def breaks(self) -> tuple[Exchange, ...]:
        """The exchanges that break it."""
        return tuple(Exchange(one.prompt, one.breaks) for one in self.cases if one.breaks)

    @property
    def pairs(self) -> tuple[Case, ...]:
        """The cases with both replies: what preference training reads."""
        return tuple(one for one in self.cases if one.keeps and one.breaks)


@dataclass(frozen=True)
class Constitution:
    """The values of one community, in one version. ConfigError for a form without meaning."""

    name: str
    """Lower-case words with hyphens; two constitutions of one name are versions of one text."""
    version: str
    """MAJOR.MINOR.PATCH; docs/constitution.md says what change needs which."""
    values: tuple[Value, ...]
    """In the author's order; 1 to 100, each id once."""
    language: str = "en"
    """The language of its texts, as in BCP 47."""
    preamble: str = ""
    """Who speaks and to whom; paragraphs with an empty line between them."""
    red_lines: tuple[RedLine, ...] = ()
    """What no reply may do, under any value."""

    def __post_init__(self) -> None:
        require_id("the name", self.name)
        parse_version(self.version)
        if not _LANGUAGE.fullmatch(self.language):
            raise _refused("the language is no language tag", 'write it like "en" or "pt-BR"')
        if _not_clean(self.preamble, paragraphs) or len(self.preamble) > 10 * MOST_TEXT:
            raise _refused("the preamble is not plain paragraphs", _PLAIN)
        if not self.values:
            raise _refused(
                "this constitution is empty: it has no values",
                "write at least one; 'loyal constitution new' prints a file to begin with",
            )
        if len(self.values) > MOST_VALUES:
            raise _refused(f"it has over {MOST_VALUES} values", "a reply cannot weigh so many")
        twice = [id for id, count in Counter(one.id for one in self.values).items() if count > 1]
        if twice:
            raise _refused(f"the value {twice[0]} stands there twice", "give each its own id")

    def __getitem__(self, id: str) -> Value:
        """The value of this id; ConfigError that names the ids there are."""
        for value in self.values:
            if value.id == id:
                return value
        known = ", ".join(one.id for one in self.values)
        raise _refused(f"{self.name} has no value of that id", f"the values are {known}")

    def lines(self) -> Iterator[tuple[str, RedLine]]:
        """Every red line with the id of its value; an empty id for the general ones."""
        yield from (("", line) for line in self.red_lines)
        for value in self.values:
            yield from ((value.id, line) for line in value.red_lines)

    def crossed_by(self, reply: str) -> tuple[RedLine, ...]:
        """The red lines that a reply crosses literally. None is found where none has phrases."""
        return tuple(line for _, line in self.lines() if line.crossed_by(reply))

    @property
    def digest(self) -> bytes:
        """SHA-256, 32 bytes: what a license names and what members sign."""
        return encoding.digest(_record(self), FORMAT)

    def to_bytes(self) -> bytes:
        """Canonical bytes; law: `Constitution.from_bytes(one.to_bytes()) == one`."""
        return encoding.encode(_record(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Constitution:
        """EncodingError for bytes of another form, ConfigError for a content without meaning."""
        match encoding.decode(data):
            case [
                str(form), str(name), str(version), str(language), str(preamble),
                list(lines), list(values),
            ] if form == FORMAT:  # fmt: skip
                found = (_value_of(one) for one in values)
                return cls(name, version, tuple(found), language, preamble, _lines_of(lines))
        raise _misfit()


def parse_version(text: str) -> tuple[int, int, int]:
    """(major, minor, patch) of a version; ConfigError for any other text (semver.org, 2.0.0)."""
    match = _VERSION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _refused("the version is not MAJOR.MINOR.PATCH", "write three numbers, as in 1.0.0")
    major, minor, patch = map(int, match.groups())
    return major, minor, patch


def require_id(what: str, text: object) -> None:
    """ConfigError unless the text is lower-case words with hyphens, 64 characters at most."""
    if not isinstance(text, str) or len(text) > 64 or not _SLUG.fullmatch(text):
        raise _refused(
            f"{what} is not lower-case words with hyphens", "write it like reader-privacy"
        )


_PLAIN = "take out control characters and extra spaces, or write less"


@lru_cache(maxsize=4096)
def _spoken(text: str) -> str:
    """The words with a space around each, so that whole words are found by `in`."""
    return f" {' '.join(words(text))} "


def _refused(message: str, hint: str) -> ConfigError:
    return ConfigError(message, hint=hint)


def _require_text(what: str, text: object) -> None:
    if not isinstance(text, str) or _not_clean(text, one_paragraph) or len(text) > MOST_TEXT:
        raise _refused(f"{what} is not one plain paragraph of {MOST_TEXT} characters", _PLAIN)


def _not_clean(text: object, form: object) -> bool:
    """Whether a text is not as `form` leaves it, or has control characters or lone surrogates."""
    if not isinstance(text, str) or not callable(form) or form(text) != text:
        return True
    return any(unicodedata.category(one) in ("Cc", "Cs") and one != "\n" for one in text)


def _record(one: Constitution) -> Encodable:
    values: list[Encodable] = [
        [
            value.id, value.statement, value.weight_bps, value.why, value.topics,
            _plain_lines(value.red_lines),
            [[case.prompt, case.keeps, case.breaks] for case in value.cases],
        ]
        for value in one.values
    ]  # fmt: skip
    lines = _plain_lines(one.red_lines)
    return [FORMAT, one.name, one.version, one.language, one.preamble, lines, values]


def _plain_lines(lines: Iterable[RedLine]) -> list[Encodable]:
    return [[line.rule, line.phrases] for line in lines]


def _value_of(plain: Plain) -> Value:
    match plain:
        case [
            str(id), str(statement), int(weight), str(why), list(topics), list(lines), list(cases)
        ]:  # fmt: skip
            found = tuple(_case_of(one) for one in cases)
            return Value(id, statement, weight, why, _texts(topics), _lines_of(lines), found)
    raise _misfit()


def _case_of(plain: Plain) -> Case:
    match plain:
        case [str(prompt), str(keeps), str(breaks)]:
            return Case(prompt, keeps, breaks)
    raise _misfit()


def _lines_of(plain: list[Plain]) -> tuple[RedLine, ...]:
    found = []
    for one in plain:
        match one:
            case [str(rule), list(phrases)]:
                found.append(RedLine(rule, _texts(phrases)))
            case _:
                raise _misfit()
    return tuple(found)


def _texts(plain: list[Plain]) -> tuple[str, ...]:
    found = tuple(one for one in plain if isinstance(one, str))
    if len(found) != len(plain):
        raise _misfit()
    return found


def _misfit() -> EncodingError:
    return EncodingError(
        "these bytes are no constitution", hint="Get it again, or read its file instead."
    )
