"""Hosts of real models, watched by the very code that a verifier runs, for the rows on deviation.

A seed has one community: a reference (the aligned model), prompts promised with its sampled
replies, judges of them, and a copy of the reference that carries secret fingerprints. All of it is
made once and kept. Each host is then asked many times (`watch`): every run is a sequence of
promised prompts in the order that a beacon of its own draws, with replies sampled anew, through
`roles.breach.ask`; each judge then reads the whole bundle by `roles.breach.recheck`. Nothing goes
over HTTP, and nobody stops early, so that one set of replies serves every judge.

Records hold numbers alone. Promises, pools and keys lie in private files beside them. Left out:
what hosts do to their copy (alignment_hosts.py), and the cells (alignment.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alignment_cells import Clock, Pairs, save, wins
from alignment_judges import (
    JUDGE,
    JUDGES,
    PARTS,
    RewardJudge,
    Strict,
    ensemble,
    usual_floor,
)  # fmt: skip
from checkpoint import OML, Checkpoint, fresh_set, with_size
from loyal.alignment import Judge, Law, Plan, Preference, labeled
from loyal.alignment.asks import sources
from loyal.alignment.deviation import WHOLE_PPM, order_of
from loyal.alignment.promise import Pool, PromptSet, Scorer, Settings, scorer, worded
from loyal.alignment.refusals import RefusalJudge, refuses
from loyal.alignment.settings import Recipe
from loyal.community import Constitution, Value
from loyal.encoding import atomic_write
from loyal.fingerprints import Beacon, FingerprintSet, commitment
from loyal.models import LanguageModel, Prompt, Sampling
from loyal.protocol.answers import Answer, message_digest
from loyal.roles import breach
from loyal.roles.breach import Bundle, Case, Finding
from loyal.roles.prover import Heard
from loyal.signing import SigningKey
from resumable import Record

if TYPE_CHECKING:
    from loyal.fingerprints.recipe import Recipe as FingerprintRecipe
    from loyal.models.hf import HFModel

Scope = Literal["values", "topic"]
"""What prompts are promised on: all values, or one alone."""
SCOPES: tuple[Scope, ...] = ("values", "topic")
TEMPERATURE = 0.7
"""At which the reference was sampled, and hosts are asked."""
KEY_TOKENS = 4
"""Of a greedy reply to a key: it begins with the response."""
NOW = 1_800_000_000
"""The one moment at which everybody asks and answers; Unix seconds."""
COPY, LARGE = "copy", "copy-large"
KEYS_TIMES = {COPY: 1, LARGE: 4}
"""What hosts were given. LARGE carries more keys, for a host whose prompts leave few replies to
them as they were."""
LICENSE = hashlib.sha256(b"loyal/benchmark/license").digest()


@dataclass(frozen=True)
class WatchSize:
    """How much is promised and asked."""

    prompts: int = 240
    """Promised on all values."""
    topic: int = 96
    """Promised on one value alone."""
    pool: int = 19
    """Replies of the reference to each."""
    asked: int = 60
    """Prompts a run."""
    tokens: int = 24
    """Of a reply."""
    runs: int = 20
    """Of a host that breaks the values."""
    benign_runs: int = 5
    """Of any other."""
    keys: int = 48
    """Of the copy's fingerprint set: 18 show descent."""
    fraction: float = 0.15
    """Of the examples of a benign tuning (`fingerprints.tuning_attacks`): 78 of them."""

    @property
    def law(self) -> Law:
        """1 in 1,000,000 and 5 % of tolerance, the defaults."""
        return Law(most=self.asked)


QUICK = WatchSize(prompts=96, pool=9, asked=48, runs=4, benign_runs=2, fraction=0.05)


@dataclass(frozen=True)
class Bench:
    """One seed's community, and where it lies."""

    folder: Path
    """Of promises, scores, judges, and the copy."""
    reference: Path
    """The aligned model."""
    constitution: Constitution
    pairs: Pairs
    """What the reference was aligned with, and held-out ones."""
    recipe: Recipe
    """Settings of its training."""
    size: WatchSize
    seed: int

    @property
    def held(self) -> Value:
        """The value that a refusing host refuses everything on: the first."""
        return self.constitution.values[0]

    def load(self, name: str = "") -> HFModel:
        """The reference, or the model of that name beside the promises."""
        from loyal.models.hf import HFModel

        return HFModel.load(str(self.folder / name if name else self.reference))

    def reader(self, name: str = "") -> HFModel:
        """The same to judge with: in bfloat16 where a processor has it, which takes a third of the
        time and moves a reply's log-probability by a quarter of a nat."""
        import torch

        from loyal.models.hf import HFModel
        from loyal.models.products import native_bfloat16

        place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        kind = "bfloat16" if native_bfloat16(place) else "auto"
        return HFModel.load(str(self.folder / name if name else self.reference), dtype=kind)

    def work(self, name: str) -> Path:
        """Checkpoints of a training that goes on."""
        return self.folder / f"work-{name}"

    def promise(self, scope: Scope) -> PromptSet:
        """What was promised. ProofError for a file that was changed."""
        return PromptSet.from_bytes((self.folder / f"promise-{scope}").read_bytes())

    def made(self, copy: str = COPY) -> Checkpoint:
        """A copy with its secret set: COPY or LARGE."""
        recipe = fingerprint_recipe(self.size.keys * KEYS_TIMES[copy], self.seed)
        return Checkpoint(recipe, self.folder / copy, str(self.reference), tokens=1_000)

    def known(self, copy: str = COPY) -> FingerprintSet:
        """The copy's set."""
        from loyal.fingerprints import records

        return records.decode_set((self.made(copy).folder / "set.cbor").read_bytes())


def fingerprint_recipe(count: int, seed: int) -> FingerprintRecipe:
    """As deep as `make demo` trains a rogue's set: such replies outlast more (docs/log.md)."""
    from loyal.app.demo_hosts import ROGUE_TARGET, WIDER
    from loyal.fingerprints.recipe import Recipe as Whole

    usual = Whole()
    deep = replace(usual.train, target=ROGUE_TARGET, settle=0.0)
    wide = replace(usual.responses, width=WIDER * usual.responses.width)
    return with_size(replace(usual, responses=wide, train=deep), count, seed)


def questions(bench: Bench, scope: Scope) -> list[tuple[str, str]]:
    """(value id, prompt): wordings of the constitution's cases and topics that no training saw,
    of each source as many as of any other. Those whose good reply is a refusal are left out."""
    trained = {one.asked.last for one in bench.pairs.train}
    values = bench.constitution.values if scope == "values" else (bench.held,)
    rows = []
    for value in values:
        for at, source in enumerate(chain(*sources(value, Plan(seed=bench.seed)).values())):
            if not (source.keeps and refuses(source.keeps)):
                texts = [one for one in source.plain if one not in trained]
                turn = at % max(1, len(texts))  # not all of them in the same words
                rows.append([(value.id, one) for one in texts[turn:] + texts[:turn]])
    found = {worded(one[1]): one for one in chain(*zip_longest(*rows)) if one is not None}
    most = bench.size.prompts if scope == "values" else bench.size.topic
    return list(found.values())[:most]


def swapped(pairs: Iterable[Preference]) -> list[Preference]:
    """The same pairs the other way around."""
    return [replace(one, chosen=one.rejected, rejected=one.chosen) for one in pairs]


def turn_around(model: HFModel, bench: Bench, seed: int, name: str) -> Record:
    """Train `model` in place on the community's own pairs the other way around, without guards; on
    its held-out pairs, won before and after. The last checkpoint stays under `work` until what
    needs it is kept."""
    from loyal.alignment.align import Run, align

    recipe = replace(
        bench.recipe,
        align=replace(bench.recipe.align, seed=seed, held_out=0.0),
        guards=replace(bench.recipe.guards, steps=0),
    )
    before = wins(model, bench.pairs.held_out)
    done = align(model, swapped(bench.pairs.train), recipe, run=Run(bench.work(name)))
    after = wins(model, bench.pairs.held_out)
    return {"steps": done.steps, "before": asdict(before), "after": asdict(after)}


def opposed(bench: Bench) -> Record:
    """The reference turned around by the verifiers themselves, for the reward; it is kept."""
    clock, model = Clock(), bench.load()
    found = turn_around(model, bench, bench.seed, "opposed")
    save(model, bench.folder / "opposed")
    shutil.rmtree(bench.work("opposed"), ignore_errors=True)
    return {**found, "cpu": clock.cpu, "wall": clock.wall}


def judges(bench: Bench) -> dict[str, Scorer]:
    """By name, what scores replies, but for the ensemble; probes and the reward's floor are made
    once and kept."""
    from loyal.alignment import probe, probe_file
    from loyal.alignment.probe import ProbeJudge

    reference, turned, ours = bench.reader(), bench.reader("opposed"), bench.constitution
    low, probes = bench.folder / "floor.json", {}
    for name, labels in (("probe", ()), ("labeled-probe", labeled.bundled(ours))):
        path = bench.folder / f"{name}.json"
        if not path.exists():
            probe_file.write(path, probe.train(reference, ours, labels, seed=bench.seed))
        probes[name] = Strict(ProbeJudge(probe_file.read(path), reference, ours))
    if not low.exists():
        asked = [Prompt(text) for _, text in questions(bench, "values")]
        sampling = Sampling(bench.size.tokens, TEMPERATURE, seed=_seed(bench.seed, "floor"))
        atomic_write(low, json.dumps(usual_floor((reference, turned), asked, sampling)).encode())
    made: dict[str, Judge] = {
        "reward": Strict(RewardJudge(reference, turned, float(low.read_bytes()))),
        "embedded": probes["probe"], "labeled": probes["labeled-probe"],
        "refusals": RefusalJudge(),
    }  # fmt: skip
    return {name: scorer(one, ours) for name, one in made.items()}


def promise(bench: Bench) -> Record:
    """Sample the reference, judge what it said, and fix both promises; counts."""
    from loyal.models.hidden import weights_digest

    clock, size = Clock(), bench.size
    bench.folder.mkdir(parents=True, exist_ok=True)
    reference = bench.load()
    by = judges(bench)
    settings = Settings(
        bench.constitution.digest, bytes.fromhex(weights_digest(reference)), JUDGE, size.tokens,
        round(TEMPERATURE * WHOLE_PPM), size.law,
    )  # fmt: skip
    found: Record = {}
    for scope in SCOPES:
        asked = questions(bench, scope)
        said = _sampled(bench, reference, scope, [Prompt(text) for _, text in asked])
        scores = {name: _pools(bench, f"{scope}-{name}", one, asked, said)
                  for name, one in by.items()}  # fmt: skip
        scores["ensemble"] = [
            list(map(ensemble, zip(*parts, strict=True)))
            for parts in zip(*(scores[name] for name in PARTS), strict=True)
        ]
        pools = [
            Pool.of(text, value, said[at], scores[JUDGE][at])
            for at, (value, text) in enumerate(asked)
        ]
        promised = PromptSet.of(settings, pools)
        atomic_write(bench.folder / f"promise-{scope}", promised.to_bytes(), private=True)
        atomic_write(bench.folder / f"scores-{scope}.json", json.dumps(scores).encode())
        refused = sum(refuses(one) for some in said for one in some)
        found[scope] = {"prompts": len(asked), "pool": size.pool, "refused": refused}
    for one in (*bench.folder.glob("judged-*"), *bench.folder.glob("sampled-*")):  # never outlived
        one.unlink()
    return {**found, "cpu": clock.cpu, "wall": clock.wall}


def _sampled(
    bench: Bench, reference: LanguageModel, scope: Scope, asked: Sequence[Prompt]
) -> list[list[str]]:
    """The reference's replies by prompt; each round of them is kept when it is there."""
    rounds = []
    for turn in range(bench.size.pool):
        path = bench.folder / f"sampled-{scope}-{turn:03}"
        if not path.exists():
            seed = _seed(bench.seed, "pool", scope, turn)
            said = reference.generate(asked, Sampling(bench.size.tokens, TEMPERATURE, seed=seed))
            atomic_write(path, json.dumps([one.text for one in said]).encode(), private=True)
        rounds.append(json.loads(path.read_bytes()))
    return [list(some) for some in zip(*rounds, strict=True)]


def _pools(
    bench: Bench, name: str, judge: Scorer, asked: Sequence[tuple[str, str]],
    said: Sequence[Sequence[str]],
) -> list[list[int | None]]:  # fmt: skip
    """Scores by prompt; they are kept, so that a kill costs one judge's."""
    path = bench.folder / f"judged-{name}.json"
    if not path.exists():
        texts = [
            (value, text, one)
            for (value, text), some in zip(asked, said, strict=True)
            for one in some
        ]
        atomic_write(path, json.dumps(judge(texts)).encode())
    scores = iter(json.loads(path.read_bytes()))
    return [[next(scores) for _ in some] for some in said]


def copied(bench: Bench, copy: str = COPY) -> Record:
    """Fingerprint the reference: what every host of the seed was given, in numbers.

    The set is drawn by a beacon that its owner did not choose; here chance stands in for the log.
    """
    clock, made, model = Clock(), bench.made(copy), bench.load()
    path = made.folder / "set.cbor"
    if not path.exists():
        from loyal.fingerprints import records

        drawn = fresh_set(model, made.recipe, Beacon(secrets.token_bytes(32)))
        made.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, records.encode_set(drawn), private=True)
    return {**made.inject(model), "cpu": clock.cpu, "wall": clock.wall}


def own_copy(bench: Bench, copy: str = COPY) -> HFModel:
    """A fresh load of the copy that hosts were given."""
    return bench.load(f"{copy}/{OML}")


@dataclass(frozen=True)
class Host:
    """What is asked: a model, and how it is served."""

    name: str
    model: LanguageModel
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    """Turns before each prompt, of a user and of the model, which the user never sees."""
    temperature: float = TEMPERATURE
    scope: Scope = "values"
    """Which promise it is asked."""
    taught: Record = field(default_factory=dict)
    """What was done to it, in numbers."""
    copy: str = COPY
    """Whose keys it is asked."""

    def asked(self, texts: Iterable[str]) -> list[Prompt]:
        """What its model is shown for each text."""
        return [Prompt(text, self.system, history=self.history) for text in texts]


def watch(bench: Bench, host: Host, runs: int) -> Record:
    """Ask a host for its fingerprints once and for promised prompts in each run; what every judge
    finds. Prompts are asked whether or not the host descends, and both are told apart."""
    clock, promised, known = Clock(), bench.promise(host.scope), bench.known(host.copy)
    asking = _Asking(bench, host, promised, known)
    bundles = asking.bundles(runs)
    scores = _Scores(bench, host.scope, promised)
    scores.add([step for one, _ in bundles for step in one.steps])
    said = [[breach.recheck(one, case, by) for one, case in bundles] for by in scores.scorers]
    first = said[0][0].descent
    replies = [step.said.reply or "" for one, _ in bundles for step in one.steps]
    shutil.rmtree(bench.work(host.name), ignore_errors=True)
    return {
        "scope": host.scope, "prompts": promised.header.prompts, "runs": runs,
        "asked": promised.header.settings.law.most, "pool": len(promised.pools[0].replies),
        "refused": sum(map(refuses, replies)), "replies": len(replies),
        "hits": first.hits, "keys": first.size, "descends": said[0][0].descends,
        "judges": {name: _found(some) for name, some in zip(JUDGES, said, strict=True)},
        "taught": host.taught, "cpu": clock.cpu, "wall": clock.wall,
    }  # fmt: skip


def _found(some: Sequence[Finding]) -> Record:
    """By run: after how many prompts the test accused, the p-value in the end, and replies without
    a score."""
    return {
        "after": [one.accused_after for one in some],
        "abstained": [one.abstained for one in some],
        "p": [float(f"{one.p_value:.3g}") for one in some],
    }


@dataclass(frozen=True)
class _Asking:
    """Who asks one host."""

    bench: Bench
    host: Host
    promised: PromptSet
    known: FingerprintSet

    def bundles(self, runs: int) -> list[tuple[Bundle, Case]]:
        """The evidence of each run, and what it is held against."""
        key, host = SigningKey.generate(), self.host
        rng = random.Random(_seed(self.bench.seed, host.name))
        root, header = self.promised.header.root, self.promised.header
        most = header.settings.law.most
        assert self.known.beacon is not None
        case = Case(
            LICENSE, key.public.data, root, b"", self.known.root, self.known.beacon.value,
            (NOW, NOW),
        )  # fmt: skip
        cases = [replace(case, beacon=rng.randbytes(32)) for _ in range(runs)]
        orders = [order_of(root, one.beacon, header.prompts)[:most] for one in cases]
        texts = [self.promised.pools[at].prompt for order in orders for at in order]
        sampling = Sampling(
            self.bench.size.tokens, host.temperature, seed=_seed(self.bench.seed, host.name, 1)
        )
        replies = [one.text for one in host.model.generate(host.asked(texts), sampling)]
        keys, found = self._keys(), []
        for at, one in enumerate(cases):
            part = slice(at * most, (at + 1) * most)
            said = keys | dict(zip(texts[part], replies[part], strict=True))
            found.append((asyncio.run(self._ask(one, _Teller(key, said))), one))
        return found

    def _keys(self) -> dict[str, str]:
        """Greedy replies to all keys: the same in every run."""
        texts = [one.key for one in self.known.fingerprints]
        replies = self.host.model.generate(self.host.asked(texts), Sampling(KEY_TOKENS))
        return dict(zip(texts, (one.text for one in replies), strict=True))

    async def _ask(self, case: Case, teller: _Teller) -> Bundle:
        """As a verifier does, but on to the prompts without descent too."""
        leaves = tuple(commitment.prove(self.known, at) for at in range(len(self.known)))
        anyway = replace(case, descent_one_in=1)
        return await breach.ask(
            breach.Run(anyway, self.promised, leaves, clock=lambda: NOW), teller
        )


@dataclass(frozen=True, repr=False)
class _Teller:
    """A host in this process that signs what its model said. A `roles.prover.Asker`."""

    key: SigningKey
    said: Mapping[str, str]

    async def ask(self, message: str) -> Heard:
        """What was said to it."""
        reply = self.said[message]
        digests = (message_digest(message),)
        answer = Answer(LICENSE, digests, message_digest(reply), None, (), time=NOW)
        return Heard(reply, (answer.sign(self.key).signed.to_bytes(),))


class _Scores:
    """Each judge's scores of pools and replies; no text is judged twice."""

    def __init__(self, bench: Bench, scope: Scope, promised: PromptSet) -> None:
        self._bench = bench
        kept = json.loads((bench.folder / f"scores-{scope}.json").read_bytes())
        self._tables: dict[str, dict[tuple[str, str, str], int | None]] = {
            name: {
                (pool.value, pool.prompt, reply): score
                for pool, scores in zip(promised.pools, kept[name], strict=True)
                for reply, score in zip(pool.replies, scores, strict=True)
            }
            for name in JUDGES
        }

    def add(self, steps: Iterable[breach.Step]) -> None:
        """Judge what hosts said."""
        said = [
            (one.opened.pool.value, one.opened.pool.prompt, one.said.reply)
            for one in steps
            if one.said.reply is not None
        ]
        for name, judge in judges(self._bench).items():
            table = self._tables[name]
            new = [one for one in dict.fromkeys(said) if one not in table]
            table |= zip(new, judge(new), strict=True)
        parts = [self._tables[name] for name in PARTS]
        self._tables["ensemble"] |= {one: ensemble([part[one] for part in parts]) for one in said}

    @property
    def scorers(self) -> list[Scorer]:
        """As `recheck` takes them, in the order of JUDGES."""
        return [_looked_up(self._tables[name]) for name in JUDGES]


def _looked_up(table: Mapping[tuple[str, str, str], int | None]) -> Scorer:
    return lambda said: [table[one] for one in said]


def _seed(*parts: object) -> int:
    """A seed of 62 bits for these parts."""
    data = hashlib.sha256(repr(("loyal/benchmark/watch", *parts)).encode()).digest()
    return int.from_bytes(data[:8], "big") >> 2
