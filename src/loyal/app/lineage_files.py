"""What a verifier of lineage brings on its disk: challenged models, and leaves that were opened.

A model is known by its weights' digest alone (`weight_files`), so nobody has to say which folder is
whose. Left out: what is asked and counted (loyal.roles.descent). torch is loaded with a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loyal.app.terminal import Terminal
from loyal.app.weight_files import weights_digest
from loyal.errors import ProofError, UsageError
from loyal.fingerprints import FingerprintSet, Proof, commitment

if TYPE_CHECKING:
    from loyal.models import LanguageModel


class Folders:
    """Folders of models, by the digest of their weights; each is loaded when it is asked for."""

    def __init__(self, terminal: Terminal, folders: Sequence[Path]) -> None:
        """UsageError for a folder without weights."""
        self._terminal = terminal
        self._paths = {weights_digest(one): one for one in folders}
        self._loaded: dict[bytes, LanguageModel] = {}

    def model(self, weights: bytes) -> LanguageModel | None:
        """The model of these weights (a digest of 32 bytes); None where there is none. ModelError
        where it cannot serve."""
        if weights not in self._loaded and weights in self._paths:
            from loyal.app.model_options import load_model

            self._loaded[weights] = load_model(self._terminal, str(self._paths[weights]))
        return self._loaded.get(weights)


def proofs_in(folder: Path) -> list[Proof]:
    """The proof files of a folder. UsageError where there is none, or one is no proof."""
    paths = sorted(folder.glob("*.proof"))
    if not paths:
        raise UsageError(
            f"{folder} holds no proof", hint="name a folder that 'loyal fingerprint prove' wrote"
        )
    return [_read(one) for one in paths]


def _read(path: Path) -> Proof:
    try:
        with path.open("rb") as file:
            return Proof.from_bytes(file.read(commitment.MAX_PROOF_BYTES + 1))
    except ProofError as error:
        raise UsageError(f"{path} is no proof: {error}", hint="take it out, or ask again") from None
    except OSError:
        raise UsageError(f"cannot read {path}", hint="check its owner") from None


def proofs_of(sets: Iterable[FingerprintSet]) -> Iterator[Proof]:
    """Every leaf of the lineage sets that were drawn."""
    for one in sets:
        if one.kind == "lineage" and one.beacon is not None:
            for index in range(len(one)):
                yield commitment.prove(one, index)
