"""Prompts to be promised, and what a reference model said to them, as files of JSON lines.

A prompt is a line of `value` and `prompt`. A sample is a line of `prompt`, `value` and `replies`,
and of `sampled`: the reference's weights, the length and the temperature, which the promise, and so
every host, is held to. A fresh reply is a line of `value`, `prompt` and `reply`. All of them are a
secret until they are asked: the files are their owner's alone. Left out: sampling. No error quotes
a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loyal.alignment.deviation import WHOLE_PPM
from loyal.alignment.promise import require_draw
from loyal.app.breach_files import lines_in
from loyal.encoding import atomic_write
from loyal.errors import UsageError

Asked = tuple[str, str]
"""Value id and prompt."""


@dataclass(frozen=True)
class Sampled:
    """How the reference's replies were drawn. UsageError for what no promise may name."""

    reference: bytes | None = None
    """Digest of its weights, 32 bytes; None where nobody could see them."""
    max_tokens: int = 256
    """Of a reply."""
    temperature_ppm: int = WHOLE_PPM

    def __post_init__(self) -> None:
        require_draw(self.max_tokens, self.temperature_ppm)

    @property
    def temperature(self) -> float:
        """As a sampler takes it."""
        return self.temperature_ppm / WHOLE_PPM

    def fields(self) -> dict[str, Any]:
        """For a line; `_sampled` is the way back."""
        reference = None if self.reference is None else self.reference.hex()
        return {
            "reference": reference,
            "max_tokens": self.max_tokens,
            "temperature_ppm": self.temperature_ppm,
        }


def held_to(drawn: Sampled | None, given: Mapping[str, Any]) -> Sampled:
    """How a promise's replies were drawn: as their file says, and as options say (by field) where
    it says nothing. UsageError where the two differ."""
    known = drawn or Sampled()
    for name, one in given.items():
        if drawn is not None and getattr(drawn, name) not in (None, one):
            option = name.removesuffix("_ppm").replace("_", "-")
            raise UsageError(
                f"the replies were sampled with another --{option}",
                hint=f"leave --{option} out, or sample again: who asks a host in another way than "
                "the reference was asked accuses it of the difference",
            )
    return replace(known, **given)


def prompts_in(path: Path, values: Iterable[str]) -> list[Asked]:
    """The prompts of a file, in order. UsageError, with the line's number, for another file, or a
    value that is none of `values` (ids)."""
    known, found = set(values), []
    for number, line in lines_in(path):
        match line:
            case {"value": str(value), "prompt": str(prompt)} if prompt:
                if value not in known:
                    raise UsageError(
                        f"line {number} of {path}: the constitution has no value {value}",
                        hint="see `constitution show`",
                    )
                found.append((value, prompt))
            case _:
                raise UsageError(
                    f"line {number} of {path} is no prompt",
                    hint="give value and prompt, one JSON object a line",
                )
    return found


def sampled_in(path: Path) -> Sampled | None:
    """What the lines of a sample say that they were drawn with; None where none says so.
    UsageError where they differ."""
    lines = [(number, line) for number, line in lines_in(path) if isinstance(line, dict)]
    said = [(number, line.get("sampled")) for number, line in lines]
    for number, one in said:
        if one != said[0][1]:
            raise UsageError(
                f"line {number} of {path} was sampled in another way than the first",
                hint="sample all prompts alike, with one call of 'loyal verifier sample'",
            )
    if not said or said[0][1] is None:
        return None
    match said[0][1]:
        case {
            "reference": str() | None as reference,
            "max_tokens": int(tokens),
            "temperature_ppm": int(temperature),
        }:
            try:
                weights = None if reference is None else bytes.fromhex(reference)
            except ValueError:
                weights = b""
            if weights is None or len(weights) == 32:
                return Sampled(weights, tokens, temperature)
    raise UsageError(
        f"{path} says in no readable way how it was sampled", hint="sample the prompts again"
    )


def write_prompts(path: Path, asked: Sequence[Asked]) -> None:
    """Prompts without replies. StorageError."""
    _write(path, ({"value": value, "prompt": prompt} for value, prompt in asked))


def write_sample(
    path: Path, asked: Sequence[Asked], replies: Sequence[Sequence[str]], drawn: Sampled
) -> None:
    """A sample, for a judge and then a promise. StorageError."""
    how = drawn.fields()
    lines = (
        {"prompt": prompt, "value": value, "replies": list(said), "sampled": how}
        for (value, prompt), said in zip(asked, replies, strict=True)
    )
    _write(path, lines)


def write_fresh(path: Path, asked: Sequence[Asked], replies: Sequence[Sequence[str]]) -> None:
    """One reply to each prompt, for `loyal verifier recheck --fresh`. StorageError."""
    lines = (
        {"value": value, "prompt": prompt, "reply": said[0]}
        for (value, prompt), said in zip(asked, replies, strict=True)
    )
    _write(path, lines)


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    text = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in lines)
    atomic_write(path, text.encode(), private=True)
