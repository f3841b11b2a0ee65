"""Replies for people to label, and how the labeled ones were made.

    python benchmarks/label_replies.py write out/labels/unlabeled.jsonl --weights out/labels

Three models answer the prompts of label_prompts.toml: the default model as it is, aligned with the
bundled personal-freedom constitution, and aligned the other way round (its pairs turned around), so
that there are replies of both kinds. Every other prompt is also asked of two of them under a system
prompt of an opponent. The replies are shuffled, so that a reader sees prompt and reply alone; who
labels adds `kept` and `labeler` to a line, or drops it where nobody could tell (docs/judges.md).

Prompts that are near to one of --apart (labeled_replies.jsonl, on which judges are measured) are
refused: nothing that trains a judge may share a prompt with what measures it. About 6 CPU minutes,
and 5 more where --weights has no aligned models yet. The labels that come with the package are of
three runs: `--stop 30`, then `--start 30 --models anti --seed 32` and `--start 30 --models aligned
--seed 33`, less seven replies that --apart holds too, in the same words.
"""

from __future__ import annotations

import argparse
import json
import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loyal.alignment import duplicates, labeled
from loyal.community import Constitution, constitution_file
from loyal.errors import UsageError
from loyal.models.language_model import Prompt, Sampling

HERE = Path(__file__).parent
PROMPTS = HERE / "label_prompts.toml"
MEASURED = HERE / "labeled_replies.jsonl"
CONSTITUTION = "personal-freedom"
MODEL = "smollm2-135m-instruct"
NEAR = 0.5
"""Jaccard index of two prompts' word pairs from which they count as near."""
HOW = {"base": "", "aligned": ", aligned", "anti": ", aligned the other way"}
"""The models, by the name of their weights, and what is said of each."""
OPPOSED = ("aligned", "anti")


@dataclass(frozen=True)
class Question:
    """One prompt for one model."""

    value: str
    prompt: str
    system: str | None


def questions(
    table: dict[str, Any], model: str, start: int = 0, stop: int | None = None
) -> Iterator[Question]:
    """Prompts of each value from `start` to `stop`, every other one also under the opponent's."""
    for value, prompts in table["prompts"].items():
        for place, prompt in list(enumerate(prompts))[start:stop]:
            yield Question(value, prompt, None)
            if model in OPPOSED and place % 2 == OPPOSED.index(model):
                yield Question(value, prompt, table["opposed"][value])


def require_new(table: dict[str, Any], apart: list[str]) -> None:
    """UsageError where two prompts are near to each other, or one to a prompt of `apart`."""
    index = duplicates.Index(NEAR)
    for prompt in dict.fromkeys(apart):
        index.add(prompt)
    near = [
        (value, place + 1)
        for value, prompts in table["prompts"].items()
        for place, prompt in enumerate(prompts)
        if index.add(prompt) is not None
    ]
    if near:
        raise UsageError(
            f"prompts that repeat another one: {near}", hint="write them anew, or drop them"
        )


def read_prompts() -> dict[str, Any]:
    """The table of label_prompts.toml."""
    return tomllib.loads(PROMPTS.read_text(encoding="utf-8"))


def write(given: argparse.Namespace) -> None:
    """Ask the models the prompts, and write the replies, shuffled, to `given.out`."""
    out, weights, apart, seed = given.out, given.weights, given.apart, given.seed
    constitution = constitution_file.bundled(CONSTITUTION)
    table = read_prompts()
    lines = labeled.read_lines(apart, constitution)
    require_new(table, [said.asked.last for one in lines for said in one.said if said is not None])
    rows = []
    for name in given.models:
        rows += _replies(name, list(questions(table, name, given.start, given.stop)), weights, seed)
        print(f"{name}: {len(rows)} replies", flush=True)
    random.Random(seed).shuffle(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))


def _replies(
    name: str, asked: list[Question], weights: Path, seed: int
) -> Iterator[dict[str, Any]]:
    model = _model(name, weights)
    prompts = [Prompt(one.prompt, one.system) for one in asked]
    sampling = Sampling(max_tokens=48, temperature=0.5, seed=seed)
    for one, reply in zip(asked, model.generate(prompts, sampling), strict=True):
        row: dict[str, Any] = {"value": one.value}
        if one.system:
            system = {"role": "system", "text": one.system}
            row["turns"] = [system, {"role": "user", "text": one.prompt}]
        else:
            row["prompt"] = one.prompt
        yield row | {"reply": reply.text.strip(), "generator": f"{MODEL}{HOW[name]}"}


def _model(name: str, folder: Path) -> Any:
    """The model with the weights of a file of its name; trained, and kept there, where none is."""
    import torch

    from loyal.models.hf import HFModel

    model = HFModel.load(MODEL)
    if name == "base":
        return model
    kept = folder / f"{name}.pt"
    if not kept.exists():
        _align(model, constitution_file.bundled(CONSTITUTION), turned=name == "anti")
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.model.state_dict(), kept)
    model.model.load_state_dict(torch.load(kept, weights_only=True))
    return model


def _align(model: Any, constitution: Constitution, turned: bool) -> None:
    """Every pair of the constitution, held-out ones too: it is to write replies, not to be good."""
    from loyal.alignment.align import Run, align
    from loyal.alignment.settings import AlignSettings, GuardSettings, Objective, Recipe
    from loyal.alignment.trials import plain_pairs, trials

    pairs = plain_pairs(trials(constitution))
    if turned:
        pairs = [replace(one, chosen=one.rejected, rejected=one.chosen) for one in pairs]
    settings = AlignSettings(
        held_out=0.0, batch=4, epochs=3, learning_rate=5e-4, rank=32, divergence=0.0, general=0.1
    )
    objective = Objective("dpo", imitation=0.1)
    align(model, pairs, Recipe(settings, objective, GuardSettings(steps=0)), (), Run())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("write",))
    parser.add_argument("out", type=Path, help="file of replies without labels")
    parser.add_argument("--weights", type=Path, required=True, help="folder of aligned models")
    parser.add_argument("--apart", type=Path, default=MEASURED, help="labels to stay apart from")
    parser.add_argument("--start", type=int, default=0, help="first prompt of each value, from 0")
    parser.add_argument("--stop", type=int, help="the one behind the last; all without it")
    parser.add_argument("--models", nargs="+", choices=HOW, default=list(HOW))
    parser.add_argument("--seed", type=int, default=31)
    write(parser.parse_args())


if __name__ == "__main__":
    main()
