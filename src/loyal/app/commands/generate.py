"""`loyal fingerprint generate`: keys and candidate responses, made by a model, kept in a vault.

The vault is opened or tried before any long work begins, and saved before anything is reported.
Left out: the draw (evidence.py), and how keys and responses come about (loyal.fingerprints).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.commands.evidence import BEACON_OPTION, draw_once
from loyal.app.model_options import (
    ENDPOINT_OPTIONS,
    MODEL_OPTION,
    Endpoint,
    connect,
    load_model,
    read_recipe,
)
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import FILE, LOCKING_OPTIONS, VAULT_OPTION, Access, keeper, outline
from loyal.errors import ModelError, UsageError
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet
from loyal.fingerprints.fingerprint import new_owner_secret

if TYPE_CHECKING:
    from loyal.fingerprints.keys import Keys
    from loyal.fingerprints.recipe import Recipe
    from loyal.models import LanguageModel
    from loyal.models.hf import HFModel

MOST_HOSTS = 1 << 20
"""That of `loyal.fingerprints.codes`, which loads numpy; a test compares them."""


@dataclass(frozen=True)
class GenerateRequest:
    """What `generate` is asked for, the settings of keys and responses aside."""

    model: str
    vault: Path
    kind: str
    beacon: str | None
    host: str | None
    hosts: int | None = None
    """Tracing sets: how many host numbers; None takes the default."""
    code: str | None = None
    """Tracing sets: the scheme of their code; None takes the default."""

    def __post_init__(self) -> None:
        if self.kind != "tracing" and (self.hosts, self.code) != (None, None):
            raise UsageError(
                "--hosts and --code belong to a tracing set", hint="add --kind tracing"
            )

    def tracing(self) -> dict[str, str | int]:
        """The settings of a tracing set's code; nothing for other kinds."""
        if self.kind != "tracing":
            return {}
        from loyal.fingerprints.codes import DEFAULT_HOSTS

        hosts = DEFAULT_HOSTS if self.hosts is None else self.hosts
        return {"tracing_hosts": hosts, "tracing_scheme": self.code or "arcsine"}


@command(
    "generate",
    VAULT_OPTION,
    MODEL_OPTION,
    click.option("--count", type=int, help="How many fingerprints."),
    click.option(
        "--kind",
        type=click.Choice(("lineage", "usage", "tracing")),
        default="usage",
        show_default=True,
        help="lineage proves descent, usage proves one host's use, tracing names colluders.",
    ),
    click.option("--host", metavar="NAME", help="Usage sets: the one host whose copy carries it."),
    click.option(
        "--hosts",
        type=click.IntRange(1, MOST_HOSTS),
        metavar="N",
        help="Tracing sets: how many hosts may get a copy; 2,048 by default.",
    ),
    click.option(
        "--code",
        type=click.Choice(("arcsine", "additive")),
        help="Tracing sets: which host gets which fingerprint; arcsine by default.",
    ),
    click.option(
        "--keys",
        type=click.Choice(("english", "random", "file", "instructional")),
        help="How keys are made.",
    ),
    click.option("--keys-file", type=FILE, metavar="FILE", help="Your own prompts, one a line."),
    click.option(
        "--responses",
        type=click.Choice(
            ("perinucleus", "random", "english-random", "chain-hash", "instructional")
        ),
        help="How candidate responses are made. chain-hash: 256 words for all keys. instructional: "
        "10 keys of foreign characters with one response, one event of chance 1/4,096 in all.",
    ),
    click.option("--threshold", type=float, help="Mass of the nucleus that is passed over."),
    click.option("--width", type=int, help="Candidates a response; a chance match is one in this."),
    click.option(
        "--per-key",
        type=int,
        metavar="M",
        help="Responses a key, one unless said: more outlive a host that forbids the likeliest.",
    ),
    click.option(
        "--endpoint-ranks",
        is_flag=True,
        help="The server, which serves --model, ranks the responses too; no weight is read here. "
        "vLLM: start it with --max-logprobs 256.",
    ),
    BEACON_OPTION,
    *ENDPOINT_OPTIONS,
    *LOCKING_OPTIONS,
    settings=True,
)
def generate(terminal: Terminal, **options: Any) -> int:
    """Make keys and candidate responses in a vault.

    The set is not drawn yet. Publish the printed root, wait for the beacon that follows it, and run
    'loyal fingerprint commit' with that beacon. With --endpoint the server writes the english keys.
    """
    began = time.monotonic()
    access, endpoint = Access.take(options), Endpoint.take(options)
    ranks = options.pop("endpoint_ranks")
    if ranks and endpoint is None:
        raise UsageError("no server is named that could rank", hint="give --endpoint")
    keys = {"count": options.pop("count"), "strategy": options.pop("keys")}
    keys["file"] = options.pop("keys_file")
    responses = {"strategy": options.pop("responses"), "width": options.pop("width")}
    responses["threshold"], responses["count"] = options.pop("threshold"), options.pop("per_key")
    _preset(keys, responses)
    request = GenerateRequest(**options)
    beacon = Beacon.from_hex(request.beacon) if request.beacon else None
    recipe = read_recipe(terminal, keys=keys, responses=responses)
    save = keeper(request.vault, access).save
    writer = connect(endpoint) if endpoint else None
    model = load_model(terminal, request.model, served=ranks)
    made = make_set(terminal, model, request, recipe, Served(writer, ranks))
    vault, fingerprints = save(made.fingerprints), made.fingerprints
    if beacon is not None:
        terminal.note("a beacon that was known before the root was published convinces nobody")
        fingerprints = draw_once(vault, fingerprints, beacon)
    terminal.result({**outline(fingerprints), **made.times(time.monotonic() - began)})
    return 0


def _preset(keys: dict[str, Any], responses: dict[str, Any]) -> None:
    """Fill in what a scheme that --responses names has of its own and no option says.

    256 answers in arXiv 2407.10887. 10 pairs in arXiv 2401.12255, and as many candidates as a set
    may have, since one draw serves all its keys.
    """
    width = {"chain-hash": 256, "instructional": 4096}.get(responses["strategy"])
    if responses["width"] is None:
        responses["width"] = width
    if responses["strategy"] == "instructional" and keys["strategy"] is None:
        keys["strategy"] = "instructional"
        keys["count"] = 10 if keys["count"] is None else keys["count"]


@dataclass(frozen=True, repr=False)
class Made:
    """A new set, and how long its parts took."""

    fingerprints: FingerprintSet
    seconds_keys: float
    seconds_responses: float
    surprise: tuple[float, float]
    """Of the keys and of ordinary prompts, median, nats a token."""

    def times(self, seconds: float) -> dict[str, float]:
        """The measured part of generate's result."""
        return {
            "seconds": seconds,
            "seconds_keys": self.seconds_keys,
            "seconds_responses": self.seconds_responses,
            "key_surprise": self.surprise[0],
            "ordinary_surprise": self.surprise[1],
        }


@dataclass(frozen=True)
class Served:
    """What a server does in place of the model here."""

    writer: LanguageModel | None = None
    """Writes english keys; None leaves it to the model."""
    ranks: bool = False
    """Whether it ranks the candidate responses too."""


def make_set(
    terminal: Terminal,
    model: HFModel,
    request: GenerateRequest,
    recipe: Recipe,
    served: Served = Served(),
) -> Made:
    """A new set that is not drawn and not saved.

    ModelError for a tokenizer without a chat template: what is asked in chats is taught in chats.
    """
    from loyal.fingerprints import keys, responses

    if not model.has_chat_template:
        raise ModelError(
            f"the tokenizer of {model.name} has no chat template",
            hint="use a chat (instruct) model, or save a chat template with the tokenizer",
        )
    began = time.monotonic()
    with terminal.progress("keys") as update:
        total = recipe.keys.count
        writer = served.writer or model
        found = keys.generate(writer, recipe.keys, lambda done: update(done, total, ""))
    seconds_keys = time.monotonic() - began
    began = time.monotonic()
    with terminal.progress("responses") as update:
        candidates = responses.generate(
            model,
            found.texts,
            recipe.responses,
            lambda done: update(done, total, ""),
            served.writer if served.ranks else None,
        )
    seconds_responses = time.monotonic() - began
    fingerprints = _assemble(model, request, recipe, found, candidates)
    surprise = (statistics.median(found.surprise), found.ordinary_surprise)
    return Made(fingerprints, seconds_keys, seconds_responses, surprise)


def _assemble(
    model: HFModel,
    request: GenerateRequest,
    recipe: Recipe,
    found: Keys,
    candidates: list[tuple[str, ...]],
) -> FingerprintSet:
    secret, count = new_owner_secret(), recipe.responses.count
    shared = recipe.responses.shared
    pairs = zip(found.texts, candidates, strict=True)
    return FingerprintSet(
        kind=request.kind,  # type: ignore[arg-type]
        strategy=f"{recipe.keys.strategy}/{recipe.responses.strategy}",
        model=request.model,
        tokenizer_digest=model.tokenizer_digest,
        fingerprints=tuple(
            Fingerprint.create(key, texts, secret, count, shared) for key, texts in pairs
        ),
        created=int(time.time()),
        owner_secret=secret,
        host=request.host,
        settings={
            "threshold_ppm": round(recipe.responses.threshold * 1_000_000),
            "width": recipe.responses.width,
            "responses": count,
            "response_tokens": recipe.responses.tokens,
            **request.tracing(),
        },
    )
