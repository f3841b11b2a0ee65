"""A control function: a named, versioned, deterministic function from prompts to exact replies.

"Training AI to be Loyal", section 4: the community embeds functions that answer certain prompts in
one way only. A community writes one as a small file, in one of two forms:

table    TOML: templates of prompts with one slot `{input}`, and a reply for each input (a lookup)
         or one reply for all of them (routing, refusal); `table` has the schema
program  Python: NAME, VERSION, TEMPLATES, `sample(rng)`, which draws an input (a dict of slots),
         and `reply(**slots)`; it runs in the sandbox alone; `program` has the details

The source is the function: its digest and its signature are over the file's bytes. A prompt is a
template with an input in it, and the laws that `validate` tests are: the same prompt has the same
reply whenever and wherever it is asked; a prompt that was written from an input reads back to it.

Templates and inputs are split by hashes, so that training and checking never meet: see `Part`.
Left out: validation (`validate`), training (`embed`), measuring (`check`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from math import ceil
from pathlib import Path
from typing import Literal, Protocol

from loyal import encoding, signing
from loyal.errors import ControlError, EncodingError, LoyalError, SignatureError
from loyal.models.examples import Example
from loyal.models.language_model import Prompt
from loyal.signing import PublicKey, Signed, SigningKey

Kind = Literal["lookup", "routing", "refusal", "program"]
Part = Literal["training", "new wording", "new input", "both new"]
"""What of a prompt training may have seen: all; its input only; its template only; neither. The
inputs of a lookup are all for training: nobody can know a fixed answer that was never told."""

Input = tuple[tuple[str, str], ...]
"""Slots and what stands in them, in the order of their names."""

PURPOSE = "loyal control function 1"
"""Of digests and signatures."""

MOST_EXAMPLES = 2048
"""Training examples of one function, at most."""
MOST_INPUTS = 2000
"""Inputs that are drawn at once, at most."""
HELD_OUT = 4
"""One of so many templates and inputs is held out of training."""
MOST_FILE_BYTES = 1 << 17
"""Of a source; a signed file has _ENVELOPE_BYTES more at most."""
_ENVELOPE_BYTES = 1 << 10

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
SLOT = re.compile(r"\{(\w*)\}")


class Rule(Protocol):
    """How one form of file answers. ControlError where it cannot."""

    def sample(self, count: int, seed: int) -> list[Input]:
        """Different inputs of the domain, `count` at most."""
        ...

    def replies(self, inputs: Sequence[Input]) -> list[str]:
        """The reply to each input."""
        ...

    def read(self, texts: Sequence[str]) -> list[str | None]:
        """The reply to each prompt; None where it is outside of the domain."""
        ...


@dataclass(frozen=True)
class Header:
    """What a file says of its function."""

    name: str
    """Small letters, digits and hyphens; stays the same from version to version."""
    version: int
    """From 1."""
    kind: Kind
    purpose: str
    """What it is for, in a sentence."""
    templates: tuple[str, ...]
    """Prompts with slots in braces, the same slots in all."""
    outside: tuple[str, ...] = ()
    """Prompts near the domain that are not in it: the model shall answer them as before."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise _malformed("its name is not of small letters, digits and hyphens", self.name)
        if not 1 <= self.version < 2**31:
            raise _malformed("its version is not a whole number from 1", self.name)
        if len(self.templates) < 2 or len(set(self.templates)) < len(self.templates):
            raise _malformed("it needs at least two templates, all different", self.name)
        slots = {frozenset(SLOT.findall(one)) for one in self.templates}
        if len(slots) != 1 or slots & {frozenset(), frozenset([""])}:
            raise _malformed("its templates do not all have the same named slots", self.name)


@dataclass(frozen=True)
class Case:
    """One prompt of the domain, with what the function says."""

    prompt: str
    reply: str
    part: Part


@dataclass(frozen=True)
class ControlFunction:
    """One function, ready to be asked. Satisfies `models.Behavior`."""

    header: Header
    rule: Rule = field(repr=False)
    form: str
    """toml or py."""
    source: bytes = field(repr=False)
    """The file, byte for byte."""
    signer: PublicKey | None = None
    """Whose signature over the source was checked; None for a file without one."""

    @property
    def name(self) -> str:
        """Short name."""
        return self.header.name

    @property
    def record(self) -> encoding.Encodable:
        """What is digested and signed: [1, form, source]."""
        return [1, self.form, self.source]

    @property
    def digest(self) -> bytes:
        """32 bytes: the function's identity."""
        return encoding.digest(self.record, PURPOSE)

    def expected_all(self, texts: Sequence[str]) -> list[str | None]:
        """The reply to each prompt text, None outside of the domain."""
        return self.rule.read(texts)

    def expected(self, prompt: Prompt) -> str | None:
        """The exact reply to a prompt, whatever its system message; None outside of the domain."""
        return self.expected_all([prompt.text])[0]

    def examples(self, n: int, rng: random.Random) -> list[Example]:
        """Training examples, `n` and MOST_EXAMPLES at most; the model ends its turn after each."""
        cases = self.cases("training", min(n, MOST_EXAMPLES), rng)
        return [Example(Prompt(one.prompt), one.reply, ends=True) for one in cases]

    def near(self, *, unseen: bool) -> list[str]:
        """The prompts outside of the domain that training never sees, or those that it may show
        with the model's own reply; one alone is never seen."""
        every = self.header.outside
        held = _held_out(every, self.name) or frozenset(every)
        return [one for one in every if (one in held) == unseen]

    def cases(self, part: Part, n: int, rng: random.Random) -> list[Case]:
        """`n` different prompts of one part, fewer where there are no more."""
        new_wording, new_input = (
            part in ("new wording", "both new"),
            part in ("new input", "both new"),
        )
        held = _held_out(self.header.templates, self.name)
        templates = [one for one in self.header.templates if (one in held) == new_wording]
        inputs = [one for one in self._inputs(n, rng) if one[1] == new_input]
        pairs = [(template, one) for one, _ in inputs for template in templates]
        chosen = rng.sample(pairs, min(n, len(pairs)))
        replies = self.rule.replies([one for _, one in chosen])
        found: dict[str, Case] = {}
        for (template, one), reply in zip(chosen, replies, strict=True):
            prompt = written(template, one)
            found.setdefault(prompt, Case(prompt, reply, part))
        return list(found.values())

    def _inputs(self, n: int, rng: random.Random) -> list[tuple[Input, bool]]:
        """Inputs, and whether each is held out of training."""
        count = min(MOST_INPUTS, HELD_OUT * n) if self.header.kind == "program" else MOST_INPUTS
        inputs = self.rule.sample(count, rng.getrandbits(63))
        if self.header.kind == "lookup":
            return [(one, False) for one in inputs]
        if self.header.kind == "program":  # a domain without end: each input for itself
            return [(one, _rank(repr(one), self.name)[0] % HELD_OUT == 0) for one in inputs]
        held = _held_out([repr(one) for one in inputs], self.name)
        return [(one, repr(one) in held) for one in inputs]


@dataclass(frozen=True)
class Suite:
    """Several functions as one `models.Behavior`, each with an equal number of examples at most."""

    functions: tuple[ControlFunction, ...]
    each: int = 128
    """Training examples of each function, at most."""
    kept: tuple[Example, ...] = ()
    """What the model says outside of all domains, to be said as before."""

    def examples(self, n: int, rng: random.Random) -> list[Example]:
        """The examples of all functions, then what is kept; `n` at most."""
        found = [one for it in self.functions for one in it.examples(self.each, rng)]
        return [*found, *self.kept][:n]

    def expected(self, prompt: Prompt) -> str | None:
        """What the one function says that has the prompt in its domain."""
        said = (one.expected(prompt) for one in self.functions)
        return next((one for one in said if one is not None), None)


def unclaimed(texts: Sequence[str], every: Sequence[ControlFunction]) -> list[str]:
    """Those prompts that no function has in its domain."""
    said = zip(texts, zip(*(one.expected_all(texts) for one in every), strict=True), strict=True)
    return [text for text, replies in said if all(one is None for one in replies)]


def written(template: str, slots: Input) -> str:
    """A template with an input in it."""
    values = dict(slots)
    return SLOT.sub(lambda match: values[match[1]], template)


def load(path: str | Path, signer: PublicKey | None = None) -> ControlFunction:
    """The function of a file (.toml, .py, .signed) or of a bundled name.

    With a `signer`, of a file that it signed alone. ControlError for a file that is no function;
    SignatureError for a signature that is not there, does not hold or is another's.
    """
    path = Path(path)
    if str(path) in bundled():
        path = Path(str(files("loyal.control") / "bundled" / bundled()[str(path)]))
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE_BYTES + _ENVELOPE_BYTES + 1)
    except OSError as error:
        raise ControlError(
            f"cannot read {path}: {error.strerror or error}",
            hint=f"give a file, or one of {', '.join(bundled())}",
        ) from error
    signed = path.suffix == ".signed"
    if len(data) > MOST_FILE_BYTES + _ENVELOPE_BYTES * signed:
        raise ControlError(
            f"{path} is larger than {MOST_FILE_BYTES >> 10} KiB", hint="make several functions"
        )
    if signed:
        return opened(data, signer)
    if signer is not None:
        raise SignatureError(f"{path.name} is not signed", hint="give the .signed file of it")
    return from_source(path.suffix[1:], data)


def bundled() -> dict[str, str]:
    """Names of the functions that come along, and their files."""
    return {"lending": "lending.toml", "late-fee": "late_fee.py", "medical": "medical.toml"}


def from_source(form: str, source: bytes, signer: PublicKey | None = None) -> ControlFunction:
    """The function of a file's bytes. `form` is toml or py; ControlError for what is none."""
    from loyal.control import program, table

    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ControlError("the file is not UTF-8", hint="save it as UTF-8") from error
    if form not in ("toml", "py"):
        raise ControlError(
            "a control function is a .toml, .py or .signed file", hint="see docs/control.md"
        )
    header, rule = table.parse(text) if form == "toml" else program.parse(text)
    return ControlFunction(header, rule, form, source, signer)


def sign(function: ControlFunction, key: SigningKey) -> bytes:
    """The signed file of a function: what `opened` takes."""
    return signing.sign(key, function.record, PURPOSE).to_bytes()


def opened(data: bytes, signer: PublicKey | None = None) -> ControlFunction:
    """The function of a signed file, its signature checked; `signer` says whose it must be.

    SignatureError where it does not hold or is another's, ControlError where it is no function.
    """
    try:
        signed: Signed[encoding.Value] = Signed.from_bytes(data)
        record = signing.verify(signed, PURPOSE)
    except EncodingError as error:
        raise ControlError(
            "this is not a signed file", hint="loyal control sign writes one"
        ) from error
    if signer is not None and signed.public != signer:
        raise SignatureError("somebody else signed it", hint="ask the community for its own file")
    match record:
        case [1, str(form), bytes(source)]:
            return from_source(form, source, signed.public)
    raise ControlError("what was signed is no control function", hint="sign the file again")


def _held_out(items: Sequence[str], name: str) -> frozenset[str]:
    """A quarter of the items, at least one, the ones whose hashes come first; of one item none."""
    if len(items) < 2:
        return frozenset()
    ordered = sorted(items, key=lambda one: _rank(one, name))
    return frozenset(ordered[: ceil(len(items) / HELD_OUT)])


def _rank(item: str, name: str) -> bytes:
    return encoding.digest([name, item], "loyal control split 1")


def _malformed(why: str, name: str) -> LoyalError:
    return ControlError(f"{name[:60] or 'the function'}: {why}", hint="correct the file")
