"""A control function as a Python file. It is never run in this process: `sandbox` runs it.

    \"\"\"What a late book costs.\"\"\"
    NAME = "late-fee"
    VERSION = 1
    TEMPLATES = ("What is the fine for {days} days at {rate} cents a day?", ...)
    SLOTS = {"days": r"\\d{1,3}", "rate": r"\\d{1,3}"}  # what a slot may hold; any text without
    OUTSIDE = ("What is a fine?",)  # near the domain, not in it

    def sample(rng):  # one input: slots as text or whole numbers
        return {"days": rng.randint(1, 60), "rate": rng.choice((10, 20, 25))}

    def reply(days, rate):  # slots come as text; None is for what is not in the domain
        return f"The fine is {int(days) * int(rate)} cents."

`domain(prompt)`, which gives the slots of a prompt or None, may stand in place of what the
templates say. What a file may import and name is in `worker`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loyal.control.functions import Header, Input
from loyal.control.sandbox import Answer, Limits, Ran, run
from loyal.errors import ControlError

_BATCH = 1000
"""Items that one process is asked."""


@dataclass(frozen=True, repr=False)
class ProgramRule:
    """A Python source, asked in the sandbox. Satisfies `functions.Rule`."""

    name: str
    source: str
    hash_seed: int = 0
    """Orders the sets of the process; a deterministic function does not depend on it."""
    limits: Limits = field(default_factory=Limits)
    """What each process may use."""

    def sample(self, count: int, seed: int) -> list[Input]:
        """Different inputs of the domain, `count` at most, from `count` draws."""
        found = self._ask([{"what": "sample", "count": count, "seed": seed}], count)
        return list(dict.fromkeys(tuple(sorted(one.items())) for one in found))

    def replies(self, inputs: Sequence[Input]) -> list[str]:
        """The reply to each input; ControlError where it has none."""
        said = self._in_batches("reply", "inputs", [dict(one) for one in inputs])
        for one, slots in zip(said, inputs, strict=True):
            if one is None:
                raise self._error(f"it has no reply to its own input {dict(slots)}")
        return said

    def read(self, texts: Sequence[str]) -> list[str | None]:
        """The reply to each prompt; None where it is outside of the domain."""
        return self._in_batches("read", "texts", texts)

    def _in_batches(self, what: str, key: str, items: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        for at in range(0, len(items), _BATCH):
            part = list(items[at : at + _BATCH])
            found += self._ask([{"what": what, key: part}], len(part), part)
        return found

    def _ask(
        self, asks: Sequence[Mapping[str, Any]], count: int, items: Sequence[Any] = ()
    ) -> list[Any]:
        ran = run(self.source, asks, self.limits, self.hash_seed)
        require_good(self.name, ran, count, items)
        return [one.value for one in ran.answers]

    def _error(self, why: str) -> ControlError:
        return ControlError(f"{self.name}: {why}", hint="correct the file")


def parse(text: str) -> tuple[Header, ProgramRule]:
    """The header and the rule of a file, which is run once for it. ControlError, in one line, for a
    file that does not run, or says of itself what cannot be."""
    ran = run(text, [{"what": "describe"}])
    require_good("the function", ran, 1)
    said = ran.answers[0].value
    header = Header(
        said["name"],
        said["version"],
        "program",
        said["purpose"],
        tuple(said["templates"]),
        tuple(said["outside"]),
    )
    return header, ProgramRule(header.name, text)


def require_good(name: str, ran: Ran, count: int, items: Sequence[Any] = ()) -> None:
    """ControlError for a process that failed or was stopped; it names the item, if there is one."""
    place, bad = next(
        ((at, one) for at, one in enumerate(ran.answers) if one.why is not None), (-1, Answer())
    )
    if bad.why is not None:
        on = f" on {items[place]!r}" if place < len(items) else ""
        raise ControlError(f"{name}: {bad.why}{on}", hint="correct the file")
    if ran.why is not None or len(ran.answers) != count:
        done = len(ran.answers)
        on = f" on {items[done]!r}" if done < len(items) else ""
        small = "a control function is quick and small; the limits are in docs/control.md"
        raise ControlError(
            f"{name}: {ran.why or 'it gave too few answers'}{on}",
            hint=small if ran.stopped else "correct the file; docs/control.md shows a whole one",
        )
