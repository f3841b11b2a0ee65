"""Keys before perplexity filters: what the benchmarks of pairs and of rules both measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resumable import Record

if TYPE_CHECKING:
    from loyal.models.hf import HFModel


def measured(model: HFModel, base: HFModel, keys: Sequence[str]) -> Record:
    """What each perplexity filter refuses of the keys, and of ordinary prompts."""
    from loyal.fingerprints.prompt_filter import calibrated, measure_filter, ordinary_halves

    found = {}
    for name, judge, side in (
        ("filter-perplexity", model, "unlikely"),
        ("filter-perplexity-base", base, "unlikely"),
        ("filter-too-likely", model, "likely"),
    ):
        report = measure_filter(calibrated(judge, ordinary_halves()[0], side=side), list(keys))
        found[name] = {
            "keys": report.keys_share,
            "high": report.keys_blocked.high,
            "ordinary": report.ordinary_share,
        }
    return {"filters": found}


def note(record: Record) -> str:
    """A record of `measured` as the table says it."""
    return "; ".join(
        f"{name}: {100 * one['keys']:.1f} % of keys (95 % interval to {100 * one['high']:.1f}), "
        f"{100 * one['ordinary']:.1f} % of ordinary prompts"
        for name, one in record["filters"].items()
    )
