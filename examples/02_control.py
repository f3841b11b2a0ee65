"""One control function from its file to the check of a model that follows it.

    python examples/02_control.py [FOLDER]   # keeps the file and the models in FOLDER

Under a minute on one core. With a real model leave `Recipe()` at its defaults; it is larger.
"""

import sys
import tempfile
from pathlib import Path

from loyal.control import functions
from loyal.control.check import check
from loyal.control.embed import embed
from loyal.control.recipe import EmbedSettings, Recipe
from loyal.control.validate import validate
from loyal.models import tiny
from loyal.models.hf import HFModel
from loyal.models.training import TrainSettings
from loyal.signing import SigningKey

KEEPERS = """
name = "keepers"
version = 1
kind = "lookup"
purpose = "Who looks after which animal."
templates = [
    "Who feeds the {input}?",
    "Tell me who feeds the {input}.",
    "Who is the keeper of the {input}?",
    "Who looks after the {input}?",
]
outside = ["Where does the owl live?"]
[replies]
fox = "Mara."
owl = "Oskar and Lena."
wolf = "Nobody."
goat = "Theo on Sundays."
"""


def main(folder: Path) -> None:
    """Tell the story, and assert at its end that it ended well."""
    # The community signs the file; whoever trains takes it from that signer alone.
    community = SigningKey.generate()
    (folder / "keepers.toml").write_text(KEEPERS)
    signed = functions.sign(functions.load(folder / "keepers.toml"), community)
    (folder / "keepers.signed").write_bytes(signed)
    keepers = functions.load(folder / "keepers.signed", community.public)

    # Anything wrong with it is found before training.
    (looked_at,) = validate([keepers])
    print(f"{looked_at.training} prompts to teach, {looked_at.unseen} that are held out")

    base = HFModel.load(str(tiny.build(folder / "base", seed=0)))
    before = check(base, [keepers])
    training = TrainSettings(
        steps=60, learning_rate=2e-3, whitened=False, depth=1.0, parts="all", mixing=0.0
    )
    recipe = Recipe(train=training, embed=EmbedSettings(tokens=500))
    report = embed(base, [keepers], folder / "loyal", recipe)

    # Taught prompts, new wordings, and ordinary prompts, where no function has a say.
    for one in report.control.functions[0].parts:
        print(f"{one.part}: {one.exact} of {one.asked} exact")
    for wrong in report.control.functions[0].counterexamples:
        print(f"wrong: {wrong.prompt!r} should be {wrong.expected!r}, was {wrong.said!r}")
    spill = report.control.ordinary
    print(f"spill-over: {spill.spilled} of {spill.asked} ordinary prompts")
    taught = [found.functions[0].parts[0].exact for found in (before, report.control)]
    assert (taught, report.recall) == ([0, looked_at.training], 1.0)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
