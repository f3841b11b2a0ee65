"""What a prover heard from a host that was asked a rule's keys, as a file: a JSON object a line.

`key` and `reply` are what the test of the rule takes (`functional_evidence`): a reply that counts,
or an empty one. Beside them stand `heard`, the reply as it came (null for none), `answer`, what the
host signed, and `standing`, how it was sorted (`roles.rule_prover`). Left out: the sorting. No
error here quotes a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from loyal.app.platform_client import from_base64url, to_base64url
from loyal.app.vaults import read_text
from loyal.encoding import atomic_write
from loyal.errors import LoyalError, ProofError, UsageError
from loyal.roles.rule_prover import RuleAnswer, signed_by

_HINT = "give a file that 'loyal prover ask' or 'loyal prover sort' wrote"


def write_heard(path: Path, found: Sequence[RuleAnswer]) -> None:
    """Write a new file that its owner alone can read. StorageError where the disk refuses."""
    lines = (
        {
            "key": one.key,
            "reply": one.exchange.reply,
            "standing": one.standing,
            "heard": one.reply,
            "answer": one.answer and to_base64url(one.answer),
        }
        for one in found
    )
    atomic_write(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode(), private=True)


def read_heard(path: Path, option: str) -> list[RuleAnswer]:
    """What `write_heard` wrote. All of it is the file's word: sort it again, or look whose
    signatures these are. UsageError, which names the line, for anything else."""
    found = []
    lines = [line for line in read_text(path, option).split("\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        match record:
            case {
                "key": str(key),
                "heard": str() | None as heard,
                "answer": str() | None as answer,
            }:
                found.append(RuleAnswer(key, heard, _bytes(answer, number), "unsorted"))
            case _:
                raise UsageError(f"line {number} holds nothing that was heard", hint=_HINT)
    if not found:
        raise UsageError(f"the file of {option} is empty", hint=_HINT)
    return found


def require_signed(path: Path, option: str, host: bytes, license: bytes) -> int:
    """How many replies of a file count, each of which this host signed over its key under this
    license. ProofError (reason signature) where it did not sign one; UsageError as `read_heard`.
    """
    counted = 0
    for number, (one, reply) in enumerate(_counting(path, option), 1):
        if not reply:
            continue
        if one.answer is None or not signed_by(host, license, (one.key, reply), one.answer):
            raise ProofError(
                f"the host did not sign the reply of line {number}",
                hint="ask for the file as 'loyal prover ask' wrote it",
                reason="signature",
            )
        counted += 1
    return counted


def _counting(path: Path, option: str) -> list[tuple[RuleAnswer, str]]:
    """Each line with the reply that counts in the test."""
    heard = read_heard(path, option)
    lines = [line for line in read_text(path, option).split("\n") if line.strip()]
    replies = [json.loads(line).get("reply") for line in lines]
    if not all(isinstance(one, str) for one in replies):
        raise UsageError(f"a line of {option} has no reply, not even an empty one", hint=_HINT)
    return list(zip(heard, replies, strict=True))


def _bytes(text: str | None, number: int) -> bytes | None:
    try:
        return None if text is None else from_base64url(text)
    except (ValueError, LoyalError):
        raise UsageError(f"line {number} holds no signed answer", hint=_HINT) from None
