"""Files of a breach: the reference's judged replies, promised prompts, a run's folder, scores.

A run's folder holds `bundle` (the evidence), `case.json` (what it is held against) and
`replies.jsonl` (one line a prompt, in the order asked: value, prompt, reply) and `pools.jsonl` (the
same of the reference's replies), which a judge reads; until then `asked`, each answer as it came.
Scores come back as JSON lines with `score`, 0 to 1 or null. All of it but `case.json` shows prompts
and replies: the files are private. No error quotes a line.
"""

from __future__ import annotations

import json
import os
from collections import UserDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from loyal.alignment.deviation import ppm_of
from loyal.alignment.promise import MOST_BYTES, Pool, PromptSet, Scorer
from loyal.encoding import atomic_write
from loyal.errors import LoyalError, ProofError, StorageError, UsageError
from loyal.roles.breach import Bundle, Case, Said

BUNDLE, CASE, REPLIES, POOLS = "bundle", "case.json", "replies.jsonl", "pools.jsonl"
ASKED = "asked"


def judged_pools(path: Path) -> list[Pool]:
    """Lines of `prompt`, `value`, `replies` and `scores` (0 to 1 or null). UsageError."""
    found = []
    for number, line in lines_in(path):
        match line:
            case {
                "prompt": str(prompt),
                "value": str(value),
                "replies": list(replies),
                "scores": list(scores),
            } if all(isinstance(one, str) for one in replies):
                said = [_ppm(one, path, number) for one in scores]
                try:
                    found.append(Pool.of(prompt, value, replies, said))
                except UsageError as error:
                    raise UsageError(f"line {number} of {path}: {error}", hint=error.hint) from None
            case _:
                raise UsageError(
                    f"line {number} of {path} is no prompt",
                    hint="give prompt, value, replies and scores, one JSON object a line",
                )
    return found


def scores_in(path: Path, bundle: Bundle | None = None) -> list[int | None]:
    """One score a line, of the bundle's replies in order. UsageError, also for a line that names
    another prompt or reply than the bundle has there."""
    found: list[int | None] = []
    for number, line in lines_in(path):
        if not isinstance(line, dict) or "score" not in line:
            raise UsageError(
                f"line {number} of {path} has no score", hint='write {"score": 0.8}, or null'
            )
        if bundle is not None and len(found) < len(bundle.steps):
            step = bundle.steps[len(found)]
            there = {"prompt": step.opened.pool.prompt, "reply": step.said.reply}
            if any(line.get(name, text) != text for name, text in there.items()):
                raise UsageError(
                    f"line {number} of {path} is the score of another reply",
                    hint="score this run's replies.jsonl: 'loyal judge score --out'",
                )
        found.append(_ppm(line["score"], path, number))
    return found


def read_prompts(path: Path) -> PromptSet:
    """UsageError for any file but one that `loyal verifier promise` wrote."""
    try:
        return PromptSet.from_bytes(_bytes(path))
    except ProofError as error:
        raise UsageError(f"{path} is no promise: {error}", hint="make one again") from None


def require_run_place(folder: Path) -> None:
    """UsageError where a run cannot be kept, or an earlier one is: keys are spent by asking."""
    if os.path.lexists(folder / BUNDLE):
        raise UsageError(f"{folder} holds the evidence of a run", hint="name another --out")
    here = Path(os.path.realpath(folder))
    top = next(one for one in (here, *here.parents) if one.exists())
    if not top.is_dir() or not os.access(top, os.W_OK | os.X_OK):
        raise UsageError(f"no folder can be made at {folder}", hint="name another --out")


class Asked(UserDict[str, Said]):
    """What came back to each message, in a run's folder from the first answer on.

    UsageError where the folder has another case's. Each answer is on the disk before the next
    message goes out; half a line, which a killed run left, is none.
    """

    def __init__(self, folder: Path, case: Case) -> None:
        super().__init__()
        self._path = folder / ASKED
        of = {"license": case.license, "host": case.host, "promise": case.promise}
        self._first = json.dumps({name: one.hex() for name, one in of.items()})
        if not self._path.exists():
            return
        first, *lines = _bytes(self._path).decode("utf-8", "replace").split("\n")[:-1] or [""]
        if not first:
            self.drop()  # killed before the first answer
            return
        if first != self._first:
            raise UsageError(f"{folder} holds a run on another case", hint="name another --out")
        for line in lines:
            try:
                known = json.loads(line)
                answer = None if known["answer"] is None else bytes.fromhex(known["answer"])
                said = Said(known["reply"], answer)
                said.verify(case, known["message"])
                self.data.setdefault(known["message"], said)
            except (ValueError, TypeError, KeyError, RecursionError, LoyalError):
                raise UsageError(f"{self._path} is damaged", hint="name another --out") from None
        self._write([self._first, *lines], whole=True)

    def __setitem__(self, message: str, said: Said) -> None:
        lines = [] if self._path.exists() else [self._first]
        answer = None if said.answer is None else said.answer.hex()
        record = {"message": message, "reply": said.reply, "answer": answer}
        self._write([*lines, json.dumps(record)])
        super().__setitem__(message, said)

    def _write(self, lines: Sequence[str], *, whole: bool = False) -> None:
        data = "".join(f"{one}\n" for one in lines).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if whole:
                atomic_write(self._path, data, private=True)
                return
            with open(self._path, "ab", opener=_private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot write {self._path}: {error.strerror}", hint="free space, then run it again"
            ) from error

    def drop(self) -> None:
        """Take the file away: the bundle holds it all."""
        self._path.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_run(folder: Path, bundle: Bundle, case: Case) -> None:
    """A run's folder; made where it is not there. StorageError."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        name: one.hex() if isinstance(one, bytes) else one for name, one in asdict(case).items()
    }
    pools = [one.opened.pool for one in bundle.steps]
    said = [(pool, step.said.reply) for pool, step in zip(pools, bundle.steps, strict=True)]
    reference = [(pool, reply) for pool in pools for reply in pool.replies]
    atomic_write(folder / REPLIES, _to_judge(said), private=True)
    atomic_write(folder / POOLS, _to_judge(reference), private=True)
    atomic_write(folder / CASE, f"{json.dumps(plain, indent=1)}\n".encode(), private=True)
    atomic_write(folder / BUNDLE, bundle.to_bytes(), private=True)  # the last: then it is whole


def judged_before(path: Path) -> Scorer:
    """Scores that a judge wrote beside value, prompt and reply; a text has one score, the first.
    UsageError here, and later for a reply that is not there."""
    known: dict[tuple[str, str, str], int | None] = {}
    for number, line in lines_in(path):
        match line:
            case {"value": str(value), "prompt": str(prompt), "reply": str(reply), "score": score}:
                known.setdefault((value, prompt, reply), _ppm(score, path, number))
            case {"reply": None}:
                continue
            case _:
                raise UsageError(
                    f"line {number} of {path} is no judged reply",
                    hint="give value, prompt, reply and score, one JSON object a line",
                )

    def scores_of(said: Sequence[tuple[str, str, str]]) -> list[int | None]:
        if missing := sum(one not in known for one in said):
            raise UsageError(
                f"{missing} replies to one prompt are not judged in {path}",
                hint="judge every line of replies.jsonl and pools.jsonl",
            )
        return [known[one] for one in said]

    return scores_of


def replies_in(path: Path) -> dict[str, str]:
    """Prompt -> reply, of lines with both; the last one counts. UsageError."""
    found = {}
    for number, line in lines_in(path):
        match line:
            case {"prompt": str(prompt), "reply": str(reply)}:
                found[prompt] = reply
            case _:
                raise UsageError(
                    f"line {number} of {path} is no reply",
                    hint="give prompt and reply, one JSON object a line",
                )
    return found


def read_bundle(folder: Path) -> Bundle:
    """The evidence of a run. UsageError for anything else."""
    try:
        return Bundle.from_bytes(_bytes(folder / BUNDLE))
    except ProofError as error:
        raise UsageError(f"{folder} holds no bundle: {error}", hint="get it again") from None


def read_case(path: Path) -> Case:
    """What a run wrote about its case: as good as whoever gave it. UsageError."""
    try:
        plain = json.loads(_bytes(path))
        values: dict[str, Any] = {one.name: plain[one.name] for one in fields(Case)}
        for name, value in values.items():
            if name == "window":
                since, until = value
                values[name] = (_count(since), _count(until))
            elif name in ("earlier", "descent_one_in", "deviation_one_in", "tolerance_ppm"):
                values[name] = _count(value)
            else:
                values[name] = bytes.fromhex(value)
        return Case(**values)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UsageError(
            f"{path} is no case", hint="take case.json of a run: the folder's own, or --case FILE"
        ) from None


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _to_judge(said: Iterable[tuple[Pool, str | None]]) -> bytes:
    lines = (
        json.dumps({"value": one.value, "prompt": one.prompt, "reply": reply}, ensure_ascii=False)
        for one, reply in said
    )
    return "".join(f"{one}\n" for one in lines).encode("utf-8", "surrogatepass")


def _ppm(score: object, path: Path, number: int) -> int | None:
    if score is None:
        return None
    if type(score) not in (int, float) or not 0 <= score <= 1:  # type: ignore[operator]
        raise UsageError(f"line {number} of {path} has a score that is none", hint="give 0 to 1")
    return ppm_of(float(score))  # type: ignore[arg-type]


def lines_in(path: Path) -> Iterator[tuple[int, Any]]:
    """The number of each line, from 1, and what it holds; empty lines are passed over. UsageError
    where one is no JSON in UTF-8, or the file is too long."""
    for number, line in enumerate(_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            json.dumps(found, ensure_ascii=False).encode()  # half a character has no bytes
        except (ValueError, RecursionError):
            raise UsageError(
                f"line {number} of {path} is not JSON", hint="one object a line, in UTF-8"
            ) from None
        yield number, found


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError:
        raise UsageError(f"cannot read {path}", hint="check the path and its owner") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} has over {MOST_BYTES:,} bytes", hint="give shorter lines")
    return data
