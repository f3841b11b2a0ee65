"""What a person should look at in a file of preferences, though every line of it is well formed.

    report = review.review("pairs.jsonl")
    for finding in report.findings: ...

Beside the faults of `preferences.scan`: near duplicates, pairs that contradict one another or the
constitution's own cases (`Listed`), one contributor or one line with much of the weight, values
that are thin, replies that are preferred for their length, and signs of chat templates in a text.
A finding never shows a text. Left out: whether any other reply keeps its value (a judge).
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from loyal.alignment import preferences
from loyal.alignment.duplicates import Index
from loyal.alignment.judgement import text_digest
from loyal.alignment.preference import Preference, Record
from loyal.community import Constitution, Value

NEAR = 0.8
"""Likeness of word pairs from which two texts are near duplicates."""
MOST_SHARE = 0.5
"""Of all weight, for one contributor among several."""
LINE_SHARE = 0.2
"""Of all weight, for one line of `LEAST_RECORDS` or more: a model learns that one by heart."""
LEAST_RECORDS = 20
LONGER_SHARE = 0.75
"""Chosen replies that are longer than rejected ones: above this, length is what a model learns
(Singhal et al., arXiv 2310.03716)."""
LEAST_PAIRS = 20
"""Fewer pairs say nothing about shares."""
MOST_EACH = 20
"""Findings of one rule that are named; the rest are counted."""
REFUSED = ("fault", "template-mark", "against-constitution")
"""Rules whose lines nothing is trained on."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    rule: str
    """fault, near-duplicate, contradiction, against-constitution, contributor-share, line-share,
    thin-value, longer or template-mark."""
    message: str
    """One sentence."""
    hint: str
    """The next step, one sentence."""
    line: int | None = None
    """The line it is about; None for the whole file."""


@dataclass(frozen=True)
class Review:
    """A whole file."""

    records: int
    """Lines that are well formed."""
    findings: tuple[Finding, ...]
    """By line, those about the whole file last; at most `MOST_EACH` of a rule."""
    counts: dict[str, int] = field(default_factory=dict)
    """All findings of each rule, those not named too."""

    @property
    def faults(self) -> int:
        """Lines that cannot be read."""
        return self.counts.get("fault", 0)

    @property
    def refused(self) -> int:
        """Findings for which a line is not trained on, faults among them."""
        return sum(self.counts.get(rule, 0) for rule in REFUSED)


class Listed:
    """The constitution's own replies, those that keep a value and those that break one.

    A reply that stands on both sides is on neither: another value may hold it the other way.
    """

    def __init__(self, constitution: Constitution) -> None:
        self.whole = _Sides(constitution.values)
        self.of = {one.id: _Sides((one,)) for one in constitution.values}

    def opposes(self, record: Record) -> bool:
        """Whether a record prefers a reply that breaks a value, or rejects one that keeps it, by
        the pair's own value and by all of them together."""
        one = record.content
        if isinstance(one, Preference):
            good, bad = text_digest(one.chosen), text_digest(one.rejected)
        else:
            good, bad = text_digest(one.reply), ""
        both = (self.whole, self.of.get(one.value, self.whole))
        return any(good in some.breaks or bad in some.keeps for some in both)


class _Sides:
    """Digests of replies that keep some values, and of those that break them."""

    def __init__(self, values: Iterable[Value]) -> None:
        some = tuple(values)
        keeps = {text_digest(shown.reply) for one in some for shown in one.keeps}
        breaks = {text_digest(shown.reply) for one in some for shown in one.breaks}
        self.keeps, self.breaks = keeps - breaks, breaks - keeps


def review(
    path: str | os.PathLike[str],
    values: Collection[str] = (),
    seed: int = 0,
    listed: Listed | None = None,
) -> Review:
    """Read a whole file and say what to look at; UsageError where it cannot be read at all.

    `values` are the constitution's ids, for lines that name another one and for values that are
    thin; `listed` are its cases, for lines that turn one around. `seed` draws the hashes of
    `duplicates.Index`. Memory grows with the number of lines, by some 30 kB each.
    """
    found: list[Finding] = []
    counts: Counter[str] = Counter()
    tally, near = _Tally(), _Near(seed)
    for line in preferences.scan(path, values):
        if line.record is None:
            assert line.fault is not None
            told = [Finding("fault", str(line.fault), line.fault.hint, line.number)]
        else:
            tally.add(line.record, line.number)
            told = [
                *near.look(line.record, line.number),
                *_marks(line.record, line.number),
                *_against(line.record, line.number, listed),
            ]
        for one in told:
            counts[one.rule] += 1
            if counts[one.rule] <= MOST_EACH:
                found.append(one)
    for one in tally.findings(values):
        counts[one.rule] += 1
        found.append(one)
    return Review(tally.records, tuple(found), dict(counts))


class _Near:
    """Conversations that are near one another, and the replies to each group of them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.asked, self.lines = Index(NEAR, seed), list[int]()
        self.said: dict[int, dict[str, _Replies]] = defaultdict(dict)

    def look(self, record: Record, line: int) -> Iterator[Finding]:
        one = record.content
        text = " ".join(turn.text or "" for turn in one.asked.turns)
        group = self.asked.add(text)
        if group is None:
            group = len(self.lines)
            self.lines.append(line)
        replies = (one.chosen, one.rejected) if isinstance(one, Preference) else (one.reply, "")
        roles = dict(zip(("good", "bad"), replies, strict=True))
        said = self.said[group]
        against = {"good": "bad", "bad": "good"}
        for role, reply in roles.items():
            other = said.get(against[role])
            earlier = other.find(reply) if other is not None and reply else None
            if earlier is not None:
                yield Finding(
                    "contradiction",
                    f"line {line} has a reply as {role} that line {earlier} has nearly as "
                    f"{against[role]}",
                    "find out which of the two holds, and take the other out",
                    line,
                )
                break
        repeats = []
        for role, reply in roles.items():
            if reply:
                kept = said.setdefault(role, _Replies(self.seed))
                repeats.append(kept.add(reply, line))
        if all(one is not None for one in repeats):
            yield Finding(
                "near-duplicate",
                f"line {line} is nearly a copy of line {repeats[0]}",
                "keep one of them: copies count twice",
                line,
            )


class _Replies:
    """Replies of one role to one group of conversations, and the lines they stand on."""

    def __init__(self, seed: int) -> None:
        self.index, self.lines = Index(NEAR, seed), list[int]()

    def find(self, reply: str) -> int | None:
        place = self.index.find(reply)
        return None if place is None else self.lines[place]

    def add(self, reply: str, line: int) -> int | None:
        """The earlier line with nearly this reply; None keeps it."""
        place = self.index.add(reply)
        if place is None:
            self.lines.append(line)
            return None
        return self.lines[place]


def _marks(record: Record, line: int) -> Iterator[Finding]:
    if preferences.is_marked(record):
        yield Finding(
            "template-mark",
            f"line {line} has a sign of a chat template in a text",
            "take it out: a tokenizer may read it as the end of a turn",
            line,
        )


def _against(record: Record, line: int, listed: Listed | None) -> Iterator[Finding]:
    if listed is not None and listed.opposes(record):
        yield Finding(
            "against-constitution",
            f"line {line} prefers a reply that a case lists as breaking its value, or rejects one "
            "that keeps it",
            "find out who turned it around, and take it out",
            line,
        )


class _Tally:
    """What is counted over the whole file."""

    def __init__(self) -> None:
        self.records = self.pairs = self.longer = 0
        self.weights: Counter[str] = Counter()
        self.values: Counter[str] = Counter()
        self.heaviest = (0, 0)
        """Weight in millionths, and the line."""

    def add(self, record: Record, line: int) -> None:
        one = record.content
        self.records += 1
        self.weights[one.contributor] += one.weight_ppm
        self.values[one.value] += 1
        if one.weight_ppm > self.heaviest[0]:
            self.heaviest = one.weight_ppm, line
        if isinstance(one, Preference):
            self.pairs += 1
            self.longer += len(one.chosen) > len(one.rejected)

    def findings(self, values: Collection[str]) -> Iterator[Finding]:
        total = sum(self.weights.values())
        for name, weight in self.weights.most_common(1):
            if len(self.weights) > 1 and weight > MOST_SHARE * total:
                yield Finding(
                    "contributor-share",
                    f"{name or 'the nameless'} gave {weight / total:.0%} of all weight",
                    "lower the weights, or ask more members",
                )
        most_ppm, line = self.heaviest
        if self.records >= LEAST_RECORDS and most_ppm > LINE_SHARE * total:
            yield Finding(
                "line-share",
                f"line {line} has {most_ppm / total:.0%} of all weight",
                "lower its weight, or take it out",
                line,
            )
        if self.pairs >= LEAST_PAIRS and self.longer > LONGER_SHARE * self.pairs:
            yield Finding(
                "longer",
                f"{self.longer / self.pairs:.0%} of the chosen replies are the longer ones",
                "add pairs whose chosen reply is short: else a model learns to be long",
            )
        most = max((self.values[one] for one in values), default=0)
        for value in values:
            if 4 * self.values[value] < most:
                yield Finding(
                    "thin-value",
                    f"{value} has {self.values[value]} records, another value {most}",
                    "gather more for it",
                )
