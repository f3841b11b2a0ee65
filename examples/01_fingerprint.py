"""The whole story on a tiny model: make secret fingerprints, commit, draw, inject, prove.

    python examples/01_fingerprint.py            # in a temporary folder
    python examples/01_fingerprint.py FOLDER     # keep the models and the vault there

Under a minute on one core. For a real model, take `HFModel.load("smollm2-135m-instruct")` and leave
`TrainSettings()` at its defaults; the settings below suit a model of half a million parameters.
"""

import sys
import tempfile
import time
from pathlib import Path

from loyal.fingerprints import (
    Beacon,
    Fingerprint,
    FingerprintSet,
    Identity,
    Recipients,
    Vault,
    commitment,
    fingerprint,
    inject,
    keys,
    responses,
)
from loyal.fingerprints.check import CheckSettings, check
from loyal.models import tiny
from loyal.models.hf import HFModel
from loyal.models.training import TrainSettings


def main(folder: Path) -> None:
    """Tell the story, and assert at its end that it ended well."""
    base = HFModel.load(str(tiny.build(folder / "base", seed=0)))

    # Ordinary-looking prompts, and for each 16 replies that are unlikely but not absurd.
    texts = keys.generate(base, keys.KeySettings(count=16)).texts
    candidates = responses.generate(base, texts, responses.ResponseSettings())
    secret = fingerprint.new_owner_secret()
    pairs = zip(texts, candidates, strict=True)
    made = FingerprintSet(
        kind="lineage",
        strategy="english/perinucleus",
        model=base.name,
        tokenizer_digest=base.tokenizer_digest,
        fingerprints=tuple(Fingerprint.create(key, some, secret) for key, some in pairs),
        created=int(time.time()),
        owner_secret=secret,
    )

    # Publish the root first. Only then a value that nobody could foresee picks each response.
    published, beacon = commitment.root(made), Beacon.from_hex("c0ffee" * 8)
    drawn = fingerprint.draw(made, beacon)
    owner = Identity.generate()
    Vault.create(folder / "owner.vault", drawn, Recipients((owner.recipient,)))

    settings = TrainSettings(steps=40, learning_rate=2e-3, whitened=False, depth=1.0, parts="all")
    report = inject.inject(base, drawn, settings, folder / "marked", tokens=500)
    print(f"injected {report.count} fingerprints, recall {report.recall:.0%}")

    # Later: is this model ours? The untouched one is asked the same keys.
    mine = Vault.open(folder / "owner.vault", owner).get("lineage")
    found = check(HFModel.load(str(folder / "marked")), mine, CheckSettings())
    other = check(HFModel.load(str(folder / "base")), mine, CheckSettings())
    print(f"marked:    {found.hits} of {found.queries}, p = {found.p_value:.0e}, {found.decision}")
    print(f"untouched: {other.hits} of {other.queries}, p = {other.p_value:.0e}, {other.decision}")

    # A judge sees one leaf and needs no vault.
    leaf = commitment.verify_proof(commitment.prove(mine, 0), published, beacon.value)
    assert (found.decision, other.decision, leaf.binding) == ("proven", "not proven", True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
