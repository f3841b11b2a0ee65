"""`loyal verifier prompts | sample`: what a promise is made of, and what its pools are held to.

`prompts` draws prompts from a constitution. `sample` asks the reference model: many replies to each
prompt of a file, which `loyal judge score --out` then scores for `loyal verifier promise`; or one
reply to each prompt of a run's evidence, for `loyal verifier recheck --fresh`. Nothing of a prompt
or a reply is shown. Left out: judging, and the promise (breach.py).
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.alignment import promise_prompts
from loyal.alignment.conversation import Conversation
from loyal.alignment.deviation import MOST_PROMPTS
from loyal.alignment.promise import REPLIES, require_pool, require_prompts
from loyal.alignment.synthesis_state import Batch, State, require_state
from loyal.alignment.writers import Draft
from loyal.app.breach_files import read_bundle
from loyal.app.commands.constitution import read_constitution, read_usable_constitution
from loyal.app.key_files import FILE
from loyal.app.model_options import (
    ENDPOINT_OPTIONS,
    MODEL_HELP,
    Endpoint,
    connect,
    given,
    load_model,
)
from loyal.app.sample_files import (
    Asked,
    Sampled,
    prompts_in,
    write_fresh,
    write_prompts,
    write_sample,
)
from loyal.app.terminal import Terminal, Update, command
from loyal.app.vaults import require_absent
from loyal.app.weight_files import weights_digest
from loyal.encoding import Encodable, digest, require_place
from loyal.errors import UsageError
from loyal.models import LanguageModel, Prompt, Sampling

if TYPE_CHECKING:
    from loyal.community import Value

QUERIES = 60
"""Prompts that are asked at most, as in `loyal verifier promise`."""
TIMES = 4
"""So many prompts for each that is asked: the fewer are left, the more an honest host's odd prompts
weigh."""
BATCH = 128
"""Replies, or a few more, between two entries of the state."""
_OF_A_PROMISE = ("constitution", "replies", "max_tokens", "temperature", "queries")
"""Options that a run's own promise answers."""


@command(
    "prompts",
    click.argument("constitution", metavar="CONSTITUTION"),
    click.option(
        "--count", type=click.IntRange(1, MOST_PROMPTS), default=TIMES * QUERIES, show_default=True,
        help="How many: four times as many as will be asked.",
    ),
    click.option(
        "--value", "values", multiple=True, metavar="ID",
        help="On this value alone, such as one that is said to be broken; may be repeated.",
    ),
    click.option("--out", type=FILE, required=True, metavar="FILE", help="Where they go."),
)  # fmt: skip
def prompts(terminal: Terminal, **options: Any) -> int:
    """Draw prompts to promise from a constitution.

    Each is a case or a topic of a value in plain words, drawn anew by every call. A host that reads
    the constitution can list them all: read the file, and put prompts of your own in (value and
    prompt, one JSON object a line). It is a secret until the prompts are asked.
    """
    require_absent(options["out"])
    require_place(options["out"])
    constitution = read_usable_constitution(options["constitution"])
    chosen: Sequence[Value] = constitution.values
    if options["values"]:
        chosen = [constitution[one] for one in dict.fromkeys(options["values"])]
    drawn = promise_prompts.draw(chosen, options["count"], random.SystemRandom())
    write_prompts(options["out"], drawn)
    terminal.result(
        {"prompts": len(drawn), "values": len(chosen), "file": str(options["out"])},
    )
    return 0


@dataclass(frozen=True, repr=False)
class _Task:
    """What is asked, and how. Holds prompts: never print it."""

    asked: Sequence[Asked]
    replies: int
    """To each prompt."""
    drawn: Sampled


@command(
    "sample",
    click.argument("prompts", type=FILE, metavar="[PROMPTS]", required=False),
    click.option(
        "--run", "evidence", type=FILE, metavar="DIR",
        help="In place of PROMPTS, those of a run's evidence: one reply each, as its promise says.",
    ),
    click.option("--constitution", metavar="FILE", help="Whose values PROMPTS may name."),
    click.option("--model", metavar="NAME", help=f"The reference. {MODEL_HELP}"),
    *ENDPOINT_OPTIONS,
    click.option(
        "--replies", type=int, help=f"Of the reference to each prompt. [default: {REPLIES}]"
    ),
    click.option("--max-tokens", type=int, help="Of a reply. [default: 256]"),
    click.option(
        "--temperature", type=float,
        help="At which it is sampled, and hosts are asked. [default: 1.0]",
    ),
    click.option(
        "--queries", type=click.IntRange(1, MOST_PROMPTS),
        help=f"Most prompts that will be asked, as in 'promise'. [default: {QUERIES}]",
    ),
    click.option("--out", type=FILE, required=True, metavar="FILE", help="Where replies go."),
    click.option(
        "--state", type=FILE, metavar="FILE", help="What a killed run leaves; by OUT.state."
    ),
    kept_by="out",
)  # fmt: skip
def sample(terminal: Terminal, **options: Any) -> int:
    """Sample the reference model's replies to prompts that are to be promised.

    PROMPTS is JSON lines of value and prompt, from 'loyal verifier prompts' or your own hand. The
    file of --out goes to 'loyal judge score --out', and from there to 'loyal verifier promise'.
    With --run it has one fresh reply to each prompt of a run, for 'loyal verifier recheck --fresh'.
    A run that was killed goes on where it stopped when the same call is made again.
    """
    endpoint = Endpoint.take(options)
    if (options["prompts"] is None) == (options["evidence"] is None):
        raise UsageError("prompts are of a file or of a run", hint="give PROMPTS, or --run DIR")
    if (options["model"] is None) == (endpoint is None):
        raise UsageError(
            "say which model is the reference", hint="give --model NAME, or --endpoint URL"
        )
    out, state = options["out"], _state(options)
    fresh = options["prompts"] is None
    task = _asked_before(options) if fresh else _to_promise(terminal, options)
    model: LanguageModel
    if endpoint is not None:
        model, weights = connect(endpoint), None
    else:
        model = load_model(terminal, options["model"])
        weights = _weights(options["model"])
    task = _of_reference(task, weights, fresh)
    if fresh and weights is None:
        terminal.note("nobody saw this model's weights: that it is the reference is your word")
    source = endpoint.url if endpoint is not None else "" if weights is None else weights.hex()
    with terminal.progress("sampling") as update:
        said = _sampled(model, task, (state, source), update)
    if fresh:
        write_fresh(out, task.asked, said)
    else:
        write_sample(out, task.asked, said, task.drawn)
    state.unlink(missing_ok=True)
    alike = sum(len(one) > 1 and len(set(one)) == 1 for one in said)
    if 2 * alike > len(said):
        terminal.note(
            "most prompts got one reply again and again: is the reference asked greedily?"
        )
    reference = weights if fresh else task.drawn.reference
    terminal.result(
        {
            "prompts": len(said), "replies": sum(map(len, said)), "always_the_same": alike,
            "reference": None if reference is None else reference.hex(), "file": str(out),
        }
    )  # fmt: skip
    return 0


def _state(options: dict[str, Any]) -> Path:
    """Where a killed run is kept. UsageError and StorageError where result or state have no place,
    before anything is read."""
    out: Path = options["out"]
    state: Path = options["state"] or out.with_name(f"{out.name}.state")
    if out.is_file() and state.is_file():
        require_state(state)
        raise UsageError(
            f"{out} is there, and whole: {state.name} is what a run left that was killed then",
            hint=f"use {out.name}, and delete {state.name}, which shows prompts and replies too",
        )
    require_absent(out)
    require_place(out)
    if os.path.realpath(state) == os.path.realpath(out):
        raise UsageError("two files have one name", hint="give each its own")
    require_place(state)
    if state.exists():
        require_state(state)
    return state


def _to_promise(terminal: Terminal, options: dict[str, Any]) -> _Task:
    """The prompts of a file. UsageError for what no promise would take."""
    if options["constitution"] is None:
        raise UsageError(
            "nothing says whose values the prompts name", hint="give --constitution FILE"
        )
    draw = given({name: options[name] for name in ("max_tokens",)})
    if options["temperature"] is not None:
        draw["temperature_ppm"] = round(options["temperature"] * 1_000_000)
    drawn = Sampled(**draw)
    replies = REPLIES if options["replies"] is None else options["replies"]
    require_pool(replies)
    queries = QUERIES if options["queries"] is None else options["queries"]
    values = read_constitution(options["constitution"]).values
    asked = prompts_in(options["prompts"], [one.id for one in values])
    require_prompts([prompt for _, prompt in asked], queries)
    if len(asked) < TIMES * queries:
        terminal.note(
            f"{len(asked)} prompts for {queries} queries: {TIMES * queries} find a host sooner"
        )
    return _Task(asked, replies, drawn)


def _asked_before(options: dict[str, Any]) -> _Task:
    """The prompts of a run, to be asked as its promise says."""
    for name in _OF_A_PROMISE:
        if options[name] is not None:
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option} beside a run, whose promise says it", hint=f"leave --{option} out"
            )
    bundle = read_bundle(options["evidence"])
    if not bundle.steps:
        raise UsageError("no prompt was asked in this run", hint="there is no pool to look at")
    settings = bundle.header.settings
    asked = [(one.opened.pool.value, one.opened.pool.prompt) for one in bundle.steps]
    return _Task(
        asked, 1, Sampled(settings.reference, settings.max_tokens, settings.temperature_ppm)
    )


def _of_reference(task: _Task, weights: bytes | None, fresh: bool) -> _Task:
    """The task with the reference's weights, as far as they can be seen. UsageError where they are
    not those of the promise."""
    if not fresh:
        drawn = Sampled(weights, task.drawn.max_tokens, task.drawn.temperature_ppm)
        return _Task(task.asked, task.replies, drawn)
    if weights not in (None, task.drawn.reference):
        raise UsageError(
            "this model is not the promise's reference: it has other weights",
            hint="take the licensed model, as the registry names it",
        )
    return task


def _weights(name: str) -> bytes | None:
    """Digest of a model's weights, as in the registry; None where its files are not at hand."""
    from loyal.models.library import resolve

    folder = Path(resolve(name))
    return weights_digest(folder) if any(folder.glob("*.safetensors")) else None


def _sampled(
    model: LanguageModel, task: _Task, place: tuple[Path, str], update: Update
) -> list[tuple[str, ...]]:
    """The replies to each prompt, in order. Each batch is on the disk before the next one begins,
    and each reply is drawn anew: no seed, which a server would give all replies to one prompt.
    `place` is the state, and which server or weights it is of."""
    state, source = place
    record: list[Encodable] = [
        model.name, source, task.replies, task.drawn.reference, task.drawn.max_tokens,
        task.drawn.temperature_ppm, [[value, prompt] for value, prompt in task.asked],
    ]  # fmt: skip
    sampling = Sampling(task.drawn.max_tokens, task.drawn.temperature)
    found: list[tuple[str, ...]] = []
    with State(state, digest(record, "loyal/sample/1").hex(), private=True) as kept:
        while (batch := kept.next()) is not None:
            found += [one.replies for one in batch.drafts]
        while part := task.asked[len(found) : len(found) + -(-BATCH // task.replies)]:
            update(len(found), len(task.asked), "")
            every = [Prompt(prompt) for _, prompt in part for _ in range(task.replies)]
            texts = iter([one.text for one in model.generate(every, sampling)])
            rows = [tuple(next(texts) for _ in range(task.replies)) for _ in part]
            drafts = (
                Draft(Conversation.of(prompt), row)
                for (_, prompt), row in zip(part, rows, strict=True)
            )
            kept.append(Batch(tuple(drafts), ((),) * len(part)))
            found += rows
        update(len(found), len(task.asked), "")
    return found
