"""Files of preferences and demonstrations: JSON lines that TRL reads, checked line by line.

    from loyal.alignment import preferences

    preferences.write("pairs.jsonl", records)
    for record in preferences.read("pairs.jsonl"): ...

A preference is {"prompt": [messages], "chosen": [message], "rejected": [message]} as TRL's
conversational form has it (huggingface.co/docs/trl/dataset_formats), with value, weight,
contributor, campaign, provenance and hash beside; a demonstration has "completion" in place of the
two. Read are also TRL's implicit prompt (the turns that chosen and rejected share) and "messages".
Files come from strangers: every fault is one line that names the line and the next step, and never
shows its text. Left out: what a person should look at though it is well formed (`review`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast, get_args

from loyal.alignment.conversation import Conversation, Role, Turn
from loyal.alignment.preference import (
    MOST_WEIGHT_PPM,
    WHOLE_PPM,
    Demonstration,
    Kind,
    Preference,
    Provenance,
    Record,
    Split,
)
from loyal.encoding import atomic_write
from loyal.errors import LoyalError, UsageError

MOST_LINE_BYTES = 1 << 20
"""A line is one conversation; what is longer was not said by people."""

MOST_NAME = 256
"""Characters of a contributor, a campaign and the like."""

TEXTS = ("prompt", "chosen", "rejected", "completion", "messages")
NAMES = ("value", "contributor", "campaign")
KNOWN = (*TEXTS, *NAMES, "weight", "hash", "provenance")

_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]"  # control characters, lone surrogates
    r"|\r(?!\n)"  # writes over the line before it on a terminal
    r"|[\u202a-\u202e\u2066-\u2069]"  # turns the order of signs around
    r"|[\U000e0000-\U000e007f]"  # letters that nobody sees and every tokenizer does
)

_MARKS = re.compile(
    r"<\|[A-Za-z_]+\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|^(?:Human|Assistant): ",
    re.MULTILINE,
)
"""Signs of chat templates; a tokenizer may read the first ones as the end of a turn."""


def write(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Write the records, one a line, and return how many; the file appears whole or not at all.

    Law: `list(read(path)) == records`. Streams as `read` does. Raises StorageError when the disk
    refuses, and UsageError for no records and for what `read` would find at fault.
    """
    count, seen = 0, Seen()

    def pieces() -> Iterator[bytes]:
        nonlocal count
        for count, one in enumerate(records, 1):
            try:
                data = to_line(one).encode("utf-8", "surrogatepass")
                _record(data)
                seen.add(one, count)
            except LoyalError as error:
                raise UsageError(f"record {count}: {error}", hint=error.hint) from None
            yield data
        if not count:
            raise UsageError("there is no record to write", hint="ask for more, or lower the bars")

    atomic_write(path, pieces())
    return count


def to_line(one: Record) -> str:
    """A record as one line of JSON, with its line break."""
    content = one.content
    fields: dict[str, Any] = {"prompt": [_message(turn) for turn in content.asked.turns]}
    if isinstance(content, Preference):
        fields["chosen"] = [_message(Turn("assistant", content.chosen))]
        fields["rejected"] = [_message(Turn("assistant", content.rejected))]
    else:
        fields["completion"] = [_message(Turn("assistant", content.reply))]
    fields["value"], fields["weight"] = content.value, content.weight_ppm / WHOLE_PPM
    fields["contributor"], fields["campaign"] = content.contributor, content.campaign
    if one.provenance is not None:
        fields["provenance"] = asdict(one.provenance)
    fields["hash"] = one.digest.hex()
    return f"{json.dumps(fields, ensure_ascii=False)}\n"


def read(path: str | os.PathLike[str], values: Collection[str] = ()) -> Iterator[Record]:
    """The records of a file, in order; UsageError with the number of the first line at fault.

    With `values` (a constitution's ids), a record that names another value is at fault. Streams,
    but for some 100 bytes a line by which a later one is known to repeat or to contradict it.
    """
    for line in scan(path, values):
        if line.fault is not None:
            raise line.fault
        assert line.record is not None
        yield line.record


@dataclass(frozen=True)
class Line:
    """One line of a file: its record, or what is wrong with it."""

    number: int
    """From 1."""
    record: Record | None = None
    fault: UsageError | None = None


def scan(path: str | os.PathLike[str], values: Collection[str] = ()) -> Iterator[Line]:
    """Every line of a file, also those after one at fault; UsageError where it cannot be read.

    A record at fault is not compared with the later ones.
    """
    name, seen, number = Path(path).name, Seen(), 0
    try:
        with open(path, "rb") as file:
            for number, data in enumerate(_lines(file), 1):
                try:
                    record = _record(data)
                    _require_value(record, values)
                    seen.add(record, number)
                except LoyalError as error:
                    told = UsageError(f"{name}, line {number}: {error}", hint=error.hint)
                    yield Line(number, fault=told)
                else:
                    yield Line(number, record)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path has a null byte"
        raise UsageError(f"cannot read {name}: {reason}", hint="check the path") from None
    if not number:
        yield Line(1, fault=UsageError(f"{name} is empty", hint="write a record a line into it"))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends; of an oversize one, the part that shows that it is."""
    while data := file.readline(MOST_LINE_BYTES + 1):
        yield data
        while len(data) > MOST_LINE_BYTES and not data.endswith(b"\n"):
            data = file.readline(MOST_LINE_BYTES + 1)


def is_plain(text: str) -> bool:
    """Whether a text has no control character and no sign that nobody sees."""
    return _UNSEEN.search(text) is None


def has_mark(text: str) -> bool:
    """Whether a text has a sign of a chat template: a reply that ends its own turn teaches a model
    to play the user."""
    return _MARKS.search(text) is not None


def is_marked(record: Record) -> bool:
    """Whether any text of a record has such a sign."""
    one = record.content
    replies = (one.chosen, one.rejected) if isinstance(one, Preference) else (one.reply,)
    return any(map(has_mark, (*(turn.text or "" for turn in one.asked.turns), *replies)))


def is_name(text: str) -> bool:
    """Whether a text may stand as a contributor, a campaign or the like."""
    return len(text) <= MOST_NAME and _UNSEEN.search(text) is None and "\n" not in text


class Seen:
    """What earlier lines said, by hashes of their conversation and replies."""

    def __init__(self) -> None:
        self.lines: dict[bytes, int] = {}

    def add(self, record: Record, number: int) -> None:
        """UsageError where an earlier line says the same, or the opposite."""
        one = record.content
        asked = [_plain(f"{turn.role} {turn.text}") for turn in one.asked.turns]
        if isinstance(one, Preference):
            replies = [_plain(one.chosen), _plain(one.rejected)]
            if replies[0] == replies[1]:
                raise UsageError(
                    "chosen and rejected are the same but for spaces and case",
                    hint="take the line out, or give two replies that differ",
                )
            turned = self.lines.get(_hash([*asked, *reversed(replies)]))
            if turned is not None:
                raise UsageError(
                    f"it prefers the reply that line {turned} rejects",
                    hint="find out which of the two holds, and take the other out",
                )
        else:
            replies = [_plain(one.reply)]
        mark = _hash([*asked, *replies])
        earlier = self.lines.setdefault(mark, number)
        if earlier != number:
            raise UsageError(
                f"it repeats line {earlier}", hint="keep one of them; a weight says how much"
            )


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _hash(texts: list[str]) -> bytes:
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).digest()


def _record(data: bytes) -> Record:
    """The record of one line. UsageError says what is wrong with it, without the line's number."""
    if len(data) > MOST_LINE_BYTES:
        raise UsageError(
            f"it has over {MOST_LINE_BYTES:,} bytes", hint="take it out, or split the conversation"
        )
    if not data.endswith(b"\n"):
        raise UsageError(
            "it has no line break at its end: the file may have been cut off",
            hint="get the file again, or add the line break if nothing is missing",
        )
    table = _table(data)
    _require_known(table)
    value, contributor, campaign = (_name(table, name) for name in NAMES)
    asked, (reply, *others) = _conversation(table)
    weight_ppm = _weight(table.get("weight", Decimal(1)))
    content: Preference | Demonstration
    if others:
        content = Preference(asked, reply, others[0], value, weight_ppm, contributor, campaign)
    else:
        content = Demonstration(asked, reply, value, weight_ppm, contributor, campaign)
    record = Record(content, _provenance(table.get("provenance")))
    if table.get("hash") not in (None, record.digest.hex()):
        raise UsageError(
            "its hash is not that of its content: it was changed after it was written",
            hint="get the file again, or take the hash out if the change is yours",
        )
    return record


def _table(data: bytes) -> dict[str, Any]:
    try:
        table = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=_no_number,
        )
    except UnicodeDecodeError:
        raise UsageError("it is not UTF-8", hint="save the file as UTF-8") from None
    except (ValueError, RecursionError, ArithmeticError):
        raise UsageError("it is not JSON", hint="write one JSON object a line") from None
    if not isinstance(table, dict):
        raise UsageError("it is no JSON object", hint="write one JSON object a line")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise UsageError("it names a field twice", hint="which one counts? Keep that one")
    return table


def _no_number(text: str) -> None:
    raise ValueError(text)


def _require_known(table: dict[str, Any]) -> None:
    """Fields of others are passed over, but not one that is ours with a letter changed."""
    for name in table.keys() - set(KNOWN):
        near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.8)
        if near and near[0] not in table:
            raise UsageError(
                f"it has no {near[0]} but a field of nearly that name",
                hint=f"did you mean {near[0]}?",
            )


def _name(table: dict[str, Any], field: str) -> str:
    text = table.get(field) or ""
    if not isinstance(text, str) or not is_name(text):
        raise UsageError(
            f"its {field} is no plain text of up to {MOST_NAME} characters",
            hint="write a short name without line breaks and control characters",
        )
    return text


def _weight(given: Any) -> int:
    """In millionths, rounded; UsageError outside of 0.000001 to 1,000."""
    if isinstance(given, Decimal) and 0 < given <= MOST_WEIGHT_PPM // WHOLE_PPM:
        weight_ppm = round(given * WHOLE_PPM)
        if weight_ppm:
            return weight_ppm
    raise UsageError(
        "its weight is no number from 0.000001 to 1,000", hint="take the line out to drop it"
    )


def _conversation(table: dict[str, Any]) -> tuple[Conversation, list[str]]:
    """What was asked, and the replies: chosen and rejected, or the one to learn."""
    if "messages" in table and not table.keys() & {"prompt", "chosen", "completion"}:
        said = _turns(table["messages"], "messages")
        return Conversation(said[:-1]), [_reply(said[-1:], "messages")]
    given = [name for name in ("chosen", "rejected", "completion") if name in table]
    if given not in (["chosen", "rejected"], ["completion"]):
        raise UsageError(
            "it has neither chosen and rejected, nor a completion",
            hint='write "prompt", "chosen" and "rejected", each a list of messages',
        )
    replies = [_turns(table[name], name) for name in given]
    if "prompt" in table:
        asked = Conversation(_turns(table["prompt"], "prompt"))
        return asked, [_reply(one, name) for one, name in zip(replies, given, strict=True)]
    if len(replies) == 1:
        raise UsageError("it has no prompt", hint='add "prompt", a list of messages')
    before, *others = (one[:-1] for one in replies)
    if any(one != before for one in others):
        raise UsageError(
            "it has no prompt, and chosen and rejected differ before their last message",
            hint='add "prompt", or let both begin with the same messages',
        )
    asked = Conversation(before)
    return asked, [_reply(one[-1:], name) for one, name in zip(replies, given, strict=True)]


def _turns(given: Any, field: str) -> tuple[Turn, ...]:
    if isinstance(given, str):
        raise UsageError(
            f"its {field} is a text without roles",
            hint='write [{"role": "user", "content": "..."}]; a reply has the role assistant',
        )
    if not isinstance(given, list) or not given:
        raise UsageError(f"its {field} is no list of messages", hint="give one message or more")
    return tuple(_turn(one, field) for one in given)


def _turn(message: Any, field: str) -> Turn:
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise UsageError(
            f"a message of its {field} is not made of role and content",
            hint='write {"role": "user", "content": "..."}',
        )
    role, text = message["role"], message["content"]
    if role not in get_args(Role):
        raise UsageError(
            f"a message of its {field} has no role that is known",
            hint=f"take one of {', '.join(get_args(Role))}",
        )
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"a message of its {field} has no text", hint="write what was said")
    if _UNSEEN.search(text):
        raise UsageError(
            f"a message of its {field} has control characters or unseen ones",
            hint="take them out: they hide text from people, not from a model",
        )
    return Turn(cast(Role, role), text)


def _reply(turns: Iterable[Turn], field: str) -> str:
    said = [(one.role, one.text) for one in turns]
    match said:
        case [("assistant", str(text))]:
            return text
    raise UsageError(
        f"its {field} does not end in one message of the assistant",
        hint="put earlier messages into the prompt",
    )


def _provenance(given: Any) -> Provenance | None:
    if given is None:
        return None
    known = {one.name for one in fields(Provenance)}
    fits = isinstance(given, dict) and {"kind"} <= given.keys() <= known
    if fits:
        scores = [given.get(name) for name in ("chosen_ppm", "rejected_ppm")]
        fits = given["kind"] in get_args(Kind) and given.get("split", "train") in get_args(Split)
        fits = fits and all(_is_score(one) for one in scores)
    if not fits:
        raise UsageError(
            "its provenance has fields or entries that are not known",
            hint="take it out with its hash, or write what docs/preferences.md lists",
        )
    texts = {name: _name(given, name) for name in ("source", "attack", "generator", "judge")}
    chosen, rejected = (None if one is None else int(one) for one in scores)
    return Provenance(
        given["kind"], given.get("split", "train"), **texts,
        chosen_ppm=chosen, rejected_ppm=rejected,
    )  # fmt: skip


def _is_score(given: Any) -> bool:
    if given is None:
        return True
    return isinstance(given, Decimal) and 0 <= given <= WHOLE_PPM and given == int(given)


def _require_value(record: Record, values: Collection[str]) -> None:
    value = record.content.value
    if values and value and value not in values:
        near = difflib.get_close_matches(value, values, n=1)
        raise UsageError(
            "its value is none of the constitution's",
            hint=f"did you mean {near[0]}?" if near else f"they are {', '.join(values)}",
        )


def _message(turn: Turn) -> dict[str, str]:
    return {"role": turn.role, "content": turn.text or ""}
