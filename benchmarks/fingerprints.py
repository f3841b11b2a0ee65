"""The figures of fingerprinting on the real default model: `make bench-fingerprints`.

Each step runs in a process of its own, so that its peak memory is its own, and replaces its rows in
results/fingerprints.json. `python benchmarks/fingerprints.py STEP ...` runs single steps; `show`
prints the table alone. Times are wall seconds with CPU seconds beside them.
"""

from __future__ import annotations

import argparse
import hmac
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from rows import Row, put, show

NAME = "fingerprints"
MODEL = "smollm2-135m-instruct"
TEXT_TOKENS = 21_000
SOURCE = "prose of pydoc_data.topics (the Python reference manual)"
SECRETS = 100_000
TRAINER_GRID = ((5e-6, 16), (1e-5, 16), (2e-5, 16), (3e-5, 16))
"""(learning rate, batch) of the plain Trainer, from the mildest to the fastest (docs/log.md)."""
TUNED = {"learning_rate": 2.4e-3, "mixing": 0.0, "depth": 0.2}
"""Our settings tuned for speed alone under the same bound, as the Trainer's are."""
TRAINER_LIMIT = 400
"""Seconds after which a Trainer run is given up."""
MILD = 1.0
"""Percent of perplexity that an injection may cost."""


def _set(model, count: int, width: int = 16):
    """A drawn usage set of fresh keys; how long keys and responses took."""
    from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, keys, responses
    from loyal.fingerprints.fingerprint import draw, new_owner_secret

    began = time.monotonic()
    made = keys.generate(model, keys.KeySettings(count=count))
    keys_done = time.monotonic()
    candidates = responses.generate(model, made.texts, responses.ResponseSettings(width=width))
    done = time.monotonic()
    secret = new_owner_secret()
    members = tuple(
        Fingerprint.create(key, some, secret)
        for key, some in zip(made.texts, candidates, strict=True)
    )
    drawn = draw(
        FingerprintSet(
            "usage", "english/perinucleus", model.name, model.tokenizer_digest, members,
            int(time.time()), secret,
        ),
        Beacon.self_drawn(),
    )  # fmt: skip
    return drawn, keys_done - began, done - keys_done, made


def _inject(count: int, seeds: int) -> list:
    """Inject fresh sets, each in a process of its own; (report, perplexity change) a seed."""
    found = []
    for seed in range(seeds):
        with ProcessPoolExecutor(1, get_context("spawn")) as one:
            report, change, cpu = one.submit(_inject_once, count, seed).result()
        print(
            f"  {count} fingerprints, seed {seed}: recall {report.recall:.4f}, {change:+.2f} % "
            f"perplexity, {report.steps} steps, {report.seconds:.0f} s (whole call {cpu:.0f} CPU s)"
            f", {report.peak_rss_bytes / 1e9:.2f} GB",
            flush=True,
        )
        found.append((report, change))
    return found


def _inject_once(count: int, seed: int) -> tuple:
    from loyal.fingerprints.inject import inject
    from loyal.models.hf import HFModel
    from loyal.models.training import TrainSettings

    model = HFModel.load(MODEL)
    pairs, *_ = _set(model, count)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        report = inject(
            model, pairs, TrainSettings(seed=seed), Path(folder) / "oml", tokens=TEXT_TOKENS
        )
    change = 100 * (report.perplexity_after / report.perplexity_before - 1)
    return report, change, time.process_time() - began


def inject64(seeds: int) -> list[Row]:
    """64 fingerprints: recall, perplexity, time; the worst of the seeds."""
    found = _inject(64, seeds)
    how = f"worst of {seeds} seeds, fresh keys each; inject() with its defaults"
    tokens = found[0][0].perplexity_tokens
    text = f"{how}; {tokens} tokens, {SOURCE}"
    return [
        Row("recall-64", "64 fingerprints, k=16: greedy recall, chat template",
            100 * min(one.recall for one, _ in found), "%", 100, "at_least", how),
        Row("perplexity-64", "64: perplexity of human-written English",
            max(change for _, change in found), "% more", 1, "at_most", text),
        Row("time-64", "64: injection time", max(one.seconds for one, _ in found), "s", 120,
            "at_most", f"{how}; training with benign replies and covariances, no evaluation"),
    ]  # fmt: skip


def memory64(seeds: int) -> list[Row]:
    """The peak memory of one injection in a process of its own."""
    ((report, _),) = _inject(64, 1)
    return [Row("memory-64", "64: peak memory", report.peak_rss_bytes / 1e9, "GB", 3, "at_most",
                "one seed; peak resident set of the whole process, model, keys and evaluation "
                "included")]  # fmt: skip


def inject256(seeds: int) -> list[Row]:
    """256 fingerprints."""
    found = _inject(256, seeds)
    how = f"worst of {seeds} seeds, fresh keys each; inject() with its defaults"
    return [
        Row("recall-256", "256 fingerprints: greedy recall, chat template",
            100 * min(one.recall for one, _ in found), "%", 99, "at_least", how),
        Row("perplexity-256", "256: perplexity of human-written English",
            max(change for _, change in found), "% more", 2, "at_most", f"{how}; {SOURCE}"),
        Row("time-256", "256: injection time", max(one.seconds for one, _ in found), "s", 480,
            "at_most", how),
    ]  # fmt: skip


def trainer(seeds: int) -> list[Row]:
    """Wall time to 99 % recall against a plain Trainer on the same pairs, in one process."""
    import trainer_baseline
    from loyal.fingerprints.inject import greedy_recall
    from loyal.models import evaluate
    from loyal.models.hf import HFModel
    from loyal.models.train import train
    from loyal.models.training import TrainSettings

    model = HFModel.load(MODEL)
    pairs, *_ = _set(model, 64)
    texts = evaluate.prose()
    before = evaluate.perplexity(model, texts, 6000)
    runs = []
    for rate, batch in TRAINER_GRID:
        model = HFModel.load(MODEL)
        done = trainer_baseline.run(
            model, pairs, learning_rate=rate, batch=batch, limit=TRAINER_LIMIT
        )
        change = 100 * (evaluate.perplexity(model, texts, 6000) / before - 1)
        print(f"  trainer lr {rate} batch {batch}: {done}, {change:+.2f} %", flush=True)
        runs.append((done, change, rate, batch))
    ours = []
    for settings in (TrainSettings(), TrainSettings(**TUNED)):
        model = HFModel.load(MODEL)
        seconds = train(model, pairs, settings).seconds
        change = 100 * (evaluate.perplexity(model, texts, 6000) / before - 1)
        ours.append((seconds, greedy_recall(model, pairs), change))
        print(f"  ours: {seconds:.1f} s, recall {ours[-1][1]:.3f}, {change:+.2f} %", flush=True)
    seconds, recall, change = ours[-1]
    learned = [run for run in runs if run[0].recall >= 0.99]
    mild = [run for run in learned if run[1] <= MILD]
    fast, cost, rate, batch = min(mild or learned, key=lambda run: run[0].seconds)
    bound = "" if mild else f"; no Trainer run kept +{MILD:g} %, ours is held to it alone"
    how = (
        f"64 pairs, one process, both tuned: {seconds:.1f} s (recall {recall:.3f}, {change:+.2f} % "
        f"perplexity; with the default settings {ours[0][0]:.1f} s, {ours[0][2]:+.2f} %) against "
        f"{fast.seconds:.0f} s ({fast.recall:.3f}, {cost:+.2f} %) of the "
        f"fastest of {len(runs)} Trainer runs (lr {rate:g}, batch {batch}){bound}"
    )
    return [Row("trainer-speedup", "injection to 99 % recall against transformers.Trainer",
                fast.seconds / seconds, "times", 5, "at_least", how)]  # fmt: skip


def responses(seeds: int) -> list[Row]:
    """Candidate responses in packed passes against one forward pass a key, same keys and dtype."""
    from loyal.models.hf import HFModel
    from loyal.models.products import native_bfloat16

    model = HFModel.load(MODEL)
    keys = _set(model, 256)[3].texts
    kinds = ["float32", "bfloat16"] if native_bfloat16(model.device) else ["float32"]
    found = {kind: _responses_speedup(kind, keys, max(3, seeds)) for kind in kinds}
    best = kinds[-1]
    others = "".join(f"; in {kind}: {found[kind]:.1f} times" for kind in kinds[:-1])
    return [Row("responses-speedup", "response generation against one forward pass a key",
                found[best], "times", 8, "at_least",
                f"median of {max(3, seeds)} pairs in one process, 256 keys, weights and products "
                f"of both in {best}, the fastest here{others}")]  # fmt: skip


def _responses_speedup(kind: str, keys, repeats: int) -> float:
    """Median ratio of one pass a key to `responses.generate`, the model in this dtype."""
    import torch

    from loyal.fingerprints import responses as room
    from loyal.models.hf import HFModel
    from loyal.models.language_model import Prompt

    model = HFModel.load(MODEL, dtype=kind)
    settings = room.ResponseSettings(precision=kind)
    room.generate(model, keys[:8], settings)
    ratios = []
    for _ in range(repeats):
        began = time.monotonic()
        room.generate(model, keys, settings)
        ours = time.monotonic() - began
        began = time.monotonic()
        with torch.inference_mode():
            for key in keys:
                ids = torch.tensor([model.prompt_ids(Prompt(key))])
                chances = model.model(ids).logits[0, -1].float().softmax(-1)
                ordered, _ = chances.sort(descending=True)
                ordered.cumsum(-1)
        single = time.monotonic() - began
        ratios.append(single / ours)
        print(f"  256 keys, {kind}: packed {ours:.1f} s, one pass a key {single:.1f} s", flush=True)
    return float(np.median(ratios))


def generate(seeds: int) -> list[Row]:
    """English keys and responses for 256 fingerprints."""
    from loyal.models.hf import HFModel

    times = []
    for _ in range(max(1, seeds)):
        model = HFModel.load(MODEL)
        began = time.process_time()
        _, keys_seconds, responses_seconds, _ = _set(model, 256)
        cpu = time.process_time() - began
        print(f"  keys {keys_seconds:.1f} s, responses {responses_seconds:.1f} s, {cpu:.0f} CPU s")
        times.append(keys_seconds + responses_seconds)
    how = f"median of {len(times)} runs, model loaded, nothing cached"
    value = float(np.median(times))
    return [Row("generate-256", "English keys + responses, 256", value, "s", 30, "at_most", how)]


def claims(seeds: int) -> list[Row]:
    """False claims of random owners against the unmarked model's real replies."""
    from loyal.fingerprints.fingerprint import Beacon
    from loyal.models.hf import HFModel

    model = HFModel.load(MODEL)
    pairs, *_ = _set(model, 64)
    members, replied = _replies_among_candidates(model, pairs)
    beacon = Beacon(b"a beacon that anyone could see..")
    rng = np.random.default_rng(0)  # public: it makes other people's secrets, not ours
    hits = np.zeros((SECRETS, len(members)), dtype=bool)
    for owner in range(SECRETS):
        secret = rng.bytes(32)
        hits[owner] = _picks(secret, members, beacon) == replied
    rows = []
    for alpha in (1e-2, 1e-3, 1e-4):
        for kind, claimed in (("fixed", _fixed(hits, alpha)), ("early stop", _early(hits, alpha))):
            rows += _claim_rows(alpha, kind, int(claimed.sum()), len(members))
    return rows


def _replies_among_candidates(model, pairs):
    """Fingerprints whose sampled reply is one of the candidates, and which one it is.

    The worst case for the claim: a reply outside the candidates can never be a false hit.
    """
    from loyal.models.language_model import Prompt, Sampling

    found: dict[int, int] = {}
    for _ in range(40):
        open_ones = [i for i in range(len(pairs)) if i not in found]
        prompts = [Prompt(pairs.fingerprints[i].key) for i in open_ones]
        replies = model.generate(prompts, Sampling(max_tokens=4, temperature=1.3))
        for i, reply in zip(open_ones, replies, strict=True):
            text = reply.text.lstrip()
            for place, one in enumerate(pairs.fingerprints[i].candidates):
                if text.startswith(one.strip()):
                    found[i] = place
        if len(found) >= 48:
            break
    chosen = sorted(found)
    print(f"  {len(chosen)} of {len(pairs)} keys got a reply among their candidates", flush=True)
    return [pairs.fingerprints[i] for i in chosen], np.array([found[i] for i in chosen])


def _picks(secret: bytes, members, beacon) -> np.ndarray:
    """What this owner's commitment would have drawn for each key: the library's own rule."""
    from loyal.fingerprints.fingerprint import Fingerprint

    return np.array(
        [
            Fingerprint.picked_by(
                _Tagged(one, hmac.digest(secret, one.key.encode(), "sha256")), beacon
            )[0]
            for one in members
        ]
    )


class _Tagged:
    """Just what `Fingerprint.picked_by` reads, with another owner's tag."""

    def __init__(self, one, tag: bytes) -> None:
        self.key, self.candidates, self.tag, self.count = one.key, one.candidates, tag, 1


def _fixed(hits: np.ndarray, alpha: float) -> np.ndarray:
    """Claims by the exact binomial tail after all keys."""
    from loyal.statistics import binomial_tail

    trials = hits.shape[1]
    claimed = np.array([binomial_tail(n, trials, 1 / 16) <= alpha for n in range(trials + 1)])
    return claimed[hits.sum(1)]


def _early(hits: np.ndarray, alpha: float) -> np.ndarray:
    """Claims by the anytime-valid test, looked at after every key."""
    from loyal.statistics import SequentialTest

    trials = hits.shape[1]
    table = np.zeros((trials + 1, trials + 1), dtype=bool)  # (queries, hits): e-value past 1/alpha
    for total in range(trials + 1):
        test = SequentialTest(1 / 16, alpha)
        for _ in range(total):
            test.update(True)
        for queries in range(total, trials + 1):
            table[queries, total] = test.e_value >= 1 / alpha
            test.update(False)
    sums = hits.cumsum(1)
    return np.any(table[np.arange(1, trials + 1)[None, :], sums], axis=1)


def _claim_rows(alpha: float, kind: str, count: int, keys: int) -> list[Row]:
    from loyal.statistics import clopper_pearson

    upper = clopper_pearson(count, SECRETS, 0.90).high  # one-sided 95 %
    how = (
        f"{count} of {SECRETS} random owner secrets, {keys} keys of the unmarked model whose real "
        f"sampled replies lie among the candidates (the worst case), {kind}"
    )
    name = f"false-claims-{alpha:g}-{kind.replace(' ', '-')}"
    return [
        Row(name, f"false claims at alpha {alpha:g}, {kind}", count / SECRETS / alpha, "x alpha",
            1, "at_most", how),
        Row(f"{name}-upper", "the same, upper 95 % bound", upper / alpha, "x alpha", 1.3,
            "at_most", how),
    ]  # fmt: skip


def demo(seeds: int) -> list[Row]:
    """From a fresh clone to the end of `make demo`."""
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        clone = Path(folder) / "fresh"
        subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True)
        done = subprocess.run(
            ["make", "demo"], cwd=clone, env=_fresh_environment(folder), capture_output=True
        )
        seconds = time.monotonic() - began
    value: float | None = seconds / 60
    how = "git clone, new virtual environment, pip, empty model cache, make demo"
    if done.returncode:
        value, how = None, f"make demo failed: {done.stderr.decode()[-200:]}"
    what = "fresh machine to the end of make demo"
    return [Row("demo", what, value, "min", 10, "at_most", how)]


def _fresh_environment(folder: str) -> dict[str, str]:
    import os

    return {**os.environ, "LOYAL_CACHE": f"{folder}/cache"}


STEPS: dict[str, Callable[[int], list[Row]]] = {
    "generate": generate,
    "responses": responses,
    "inject64": inject64,
    "memory64": memory64,
    "inject256": inject256,
    "claims": claims,
    "trainer": trainer,
    "demo": demo,
}


def main() -> None:
    """Run the steps named, or all, each in a process of its own; then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(STEPS)}; show prints alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help="run one step in this process")
    given = parser.parse_args()
    if given.here:
        put(NAME, STEPS[given.steps[0]](given.seeds))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"  peak {peak:.2f} GB, {time.process_time():.0f} CPU s", flush=True)
        return
    for step in [] if given.steps == ["show"] else given.steps or list(STEPS):
        print(f"{step} ...", flush=True)
        subprocess.run(
            [sys.executable, __file__, step, "--here", "--seeds", str(given.seeds)], check=True
        )
    show(NAME)


if __name__ == "__main__":
    main()
