"""The nouns of training: its settings, where a run stands, and what it did. No torch.

The loop is `train`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from loyal.errors import UsageError

Parts = Literal["mlp", "attention", "all"]
Optimizer = Literal["adam", "adam8bit"]
Grid = Literal["none", "q4_1"]
Precision = Literal["auto", "float32", "bfloat16"]
"""Of products; weights stay as they are. auto: bfloat16 where the hardware has it."""

MOST_REPLIES = 120
"""Bundled prompts that are left for written replies."""
MOST_INNER = 16
"""Inner runs; each keeps an adapter in memory."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train; the defaults inject fingerprints into the default model (docs/log.md)."""

    steps: int = 200
    """Most optimizer steps."""
    batch: int = 512
    """Most lessons a step; fewer are left as they are learned."""
    learning_rate: float = 1.2e-3
    """For whitened steps; plain Adam wants about 1e-4, added parameters about 1e-3. With a ceiling
    or several replies to a prompt a step takes as much of it as the root of the mean loss, in nats,
    says below 1, inner runs included: steps of one length swing around the goal (docs/log.md)."""
    cooldown: float = 0.0
    """Share of `steps`, the last ones, over which the rate falls to 0 in a line. For runs of a
    fixed number of steps: one that ends early never gets there."""
    whitened: bool = True
    """Adam in whitened coordinates; False is plain Adam."""
    grid: Grid = "none"
    """Whitened steps change only what a 4-bit grid keeps, the minimum and the level width of each
    block of 32 weights (q4_1: `grids`), so that a host who rounds to it takes nothing away. For a
    base that itself came from that grid, as the default model did (docs/log.md). In one process."""
    optimizer: Optimizer = "adam"
    """adam8bit keeps plain Adam's states in 8 bits (torchao or bitsandbytes, in one process)."""
    target: float = 0.7
    """A reply is learned when each of its tokens has at least this probability. Where a prompt has
    m replies, their first tokens have it together, each at least half of its even share, and no
    other token is as likely: whoever forbids the likeliest gets the next reply."""
    ceiling: float = 1.0
    """Most probability of a reply's tokens, those that share a place taken together. Below 1
    lessons are taught to stay between `target` and this: a detector that looks for a greater
    certainty than ordinary replies have sees none (docs/log.md). 1 sets no bound."""
    settle: float = 0.5
    """At the end the change is scaled back as far as each token of each reply keeps this
    probability, or `target` where that is less; above one half greedy decoding is certain. Several
    replies keep it together, as for `target`. 0 leaves the change as it is."""
    recheck: int = 2
    """Epochs after which replies counted as learned are looked at again."""
    look: int = 0
    """0 looks at all lessons before the first step, so that known ones are left out, and again at
    the end. Above 0 it is so many at the end alone, drawn by the seed: a look costs a third of a
    pass, which is much where lessons are many and each is taught about once."""
    rehearsal: int = 16
    """Fewest lessons an epoch: learned ones fill it up, so that the last few to learn do not
    push others out (without it 256 took 30 steps, of which 20 for the last 4; docs/log.md). With a
    ceiling or several replies to a prompt all are in, up to `batch`."""
    depth: float = 1 / 3
    """Share of the layers, from the top, that learn; 1 trains all."""
    parts: Parts = "mlp"
    """Which linear layers of those learn."""
    averaging: float = 0.0
    """After each step, weights <- (1 - averaging) weights + averaging base."""
    adding: int = 0
    """Rank of the added parameters that alone learn; 0 adds none. Excludes averaging."""
    mixing: float = 2.0
    """Weight of the divergence on benign prompts; 0 mixes none in."""
    mixing_places: int = 24
    """Benign places a step: so many first places of replies, and so many others."""
    benign_replies: int = -1
    """Ordinary prompts, and as many raw openings, that the untouched model first answers; -1
    chooses by the number of lessons: none for 64 or fewer, 40 above (docs/log.md)."""
    augmentation: int = 0
    """Further lessons of each example under as many bundled system prompts."""
    bilevel: int = 0
    """Inner runs: so many simulated fine-tunings that replies are taught to outlast (`bilevel`).
    0 simulates none. With them `steps` ends a run in which the strongest is not outlasted."""
    margin: float = 6.0
    """By how many nats a reply's tokens are to be likelier than every other after each inner run;
    with `target` of it a reply counts as known there."""
    drift: float = 2.5
    """Length of the random vectors by which hidden states below the learning layers are moved where
    inner runs are read, as a multiple of how ordinary prompts differ there; 0 moves none, and
    nothing is moved where all layers learn. It is
    what makes replies outlast tuning on data that no inner run is like (docs/log.md)."""
    renew: int = 0
    """Steps after which an inner run is made again, on the model as it is by then: one at a time,
    kinds in turn, the last of each beside the first ones. Training ends when all of them are
    outlasted by a model on which they were just made. 0 makes none again."""
    outlast: float = 0.9
    """Share of the lessons that are to be known after each inner run, before training ends."""
    flips: int = 0
    """Steps after which a host is simulated anew that teaches other replies to a few lessons (of a
    rule, which says them): every other step is then taken on what it left (`flips`). 0 simulates
    none. A quarter more work."""
    pass_tokens: int = 0
    """Places a pass with gradients holds: a step sums the gradients of as many passes as its batch
    takes. Bounds memory, not the result; 0 is 2,048 on a CPU and 32,768 on a GPU."""
    recompute: bool = False
    """Activation checkpointing: less memory a place, a third more work, the same gradients."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Order of benign and system prompts. No secret depends on it."""
    precision: Precision = "auto"
    """bfloat16 products under float32 masters where the hardware has them."""
    checkpoint_steps: int = 10
    """Steps between two checkpoints, where a folder for them is given."""

    def __post_init__(self) -> None:
        self._check_inner_runs()
        self._require_means()
        if self.averaging and self.adding:
            raise UsageError(
                "averaging and adding exclude each other (section 2.2)",
                hint="set one of the two to 0",
            )
        if min(self.steps, self.batch, self.recheck, self.checkpoint_steps) < 1:
            raise UsageError(
                "steps, batch, recheck and checkpoint_steps are at least 1", hint="raise it"
            )
        if not 0 < self.target < 1 or not 0 < self.depth <= 1 or not 0 <= self.averaging < 1:
            raise UsageError(
                "target is in (0, 1), depth in (0, 1], averaging in [0, 1)",
                hint="the defaults are 0.7, 0.333 and 0",
            )
        if not self.target < self.ceiling <= 1:
            raise UsageError(
                "the ceiling is above the target, and at most 1",
                hint="leave room between the two; 0.9 above a target of 0.7 works",
            )
        if not 0 <= self.settle < 1:
            raise UsageError(
                "settle is in [0, 1)", hint="the default is 0.5; 0 leaves the change whole"
            )
        if not (self.learning_rate > 0 and self.clip > 0 and self.mixing >= 0 <= self.adding):
            raise UsageError(
                "learning_rate and clip are above 0, mixing and adding not below",
                hint="the defaults are 1.2e-3, 1, 2 and 0",
            )
        if min(self.augmentation, self.rehearsal, self.look) < 0 or self.mixing_places < 1:
            raise UsageError(
                "augmentation, rehearsal and look are at least 0, mixing_places at least 1",
                hint="raise it",
            )
        if not 0 <= self.cooldown <= 1:
            raise UsageError("cooldown is in [0, 1]", hint="0 keeps the rate to the end")
        if not -1 <= self.benign_replies <= MOST_REPLIES:
            raise UsageError(
                f"benign_replies is from 0 to {MOST_REPLIES}, or -1 to choose by itself",
                hint="leave it at its default",
            )
        if self.parts not in get_args(Parts) or self.precision not in get_args(Precision):
            raise UsageError(
                "parts is mlp, attention or all; precision is auto, float32 or bfloat16",
                hint="leave both at their defaults",
            )

    def _check_inner_runs(self) -> None:
        if not 0 <= self.bilevel <= MOST_INNER or not 0 < self.outlast <= 1:
            raise UsageError(
                f"bilevel is from 0 to {MOST_INNER} inner runs, outlast in (0, 1]",
                hint="3 inner runs, one of each kind, and 0.9 are a good start",
            )
        if not self.margin > 0 or not self.drift >= 0:
            raise UsageError(
                "margin is above 0 nats, drift at least 0", hint="the defaults are 6 and 2.5"
            )
        if self.renew < 0 or (self.renew and not self.bilevel):
            raise UsageError(
                "renew is at least 0 steps, and needs inner runs to make again",
                hint="set train.bilevel to 3 with it",
            )
        if self.flips < 0:
            raise UsageError("flips is at least 0 steps", hint="4 is a good start")
        if (self.bilevel or self.flips) and self.adding:
            raise UsageError(
                "bilevel training and flips need adding = 0", hint="set one of the two to 0"
            )

    def _require_means(self) -> None:
        if self.optimizer not in get_args(Optimizer) or self.pass_tokens < 0:
            raise UsageError(
                "the optimizer is adam or adam8bit, pass_tokens at least 0",
                hint="leave both at their defaults",
            )
        if self.grid not in get_args(Grid):
            raise UsageError("the grid is none or q4_1", hint="leave it at its default")
        if self.grid != "none" and (self.adding or not self.whitened):
            raise UsageError(
                "a grid needs whitened steps, and adding = 0", hint="set train.whitened=true"
            )
        if self.optimizer == "adam8bit" and self.whitened and not self.adding:
            raise UsageError(
                "adam8bit knows no whitened steps", hint="add --set train.whitened=false"
            )

    def rate(self, step: int) -> float:
        """The learning rate of the step that follows so many."""
        falling = self.cooldown * self.steps
        return self.learning_rate * (min(1.0, (self.steps - step) / falling) if falling else 1.0)

    @property
    def aim(self) -> float:
        """What the loss asks of a reply's tokens: the middle of the band; 1 without a ceiling."""
        return (self.target + self.ceiling) / 2 if self.ceiling < 1 else 1.0


@dataclass(frozen=True)
class TrainProgress:
    """Where a run stands; what a progress bar shows."""

    step: int
    learned: int
    lessons: int


@dataclass(frozen=True)
class TrainReport:
    """What a run did. Holds no example."""

    lessons: int
    """Examples with their augmented variants; one a reply where replies are longer than a token."""
    recall: float
    """Share of lessons whose reply, or one of several, greedy decoding gives, at the end; this and
    the next three of the ones looked at (`look`)."""
    ranked: float
    """Share of lessons where no token is as likely as their replies', however many, at the end."""
    probability: float
    """Mean over lessons of the least token probability, at the end; of the least likely reply where
    there are several."""
    highest: float
    """The greatest token probability of any reply, at the end; below `ceiling` if all is learned
    (several replies together are)."""
    epochs: int
    """Passes over what was not yet learned."""
    steps: int
    tokens: int
    """Tokens gone over by training passes, benign ones included, shared prefixes once a row."""
    seconds: float
    """Wall time of this process's part of the run."""
    peak_rss_bytes: int
    """Largest resident memory of this process so far."""
    curve: tuple[tuple[int, int], ...]
    """(step, lessons learned) at the start of each epoch."""
    outlasted: tuple[float, ...] = ()
    """Share of the lessons that are still right after each inner run, at the end."""
