"""All settings of alignment in one record, which a TOML recipe fills: one section a verb.

    [align]
    epochs = 1

    [objective]
    beta = 0.1

    [guards]
    perplexity = 1.05

    [harden]
    rounds = 3

    [report]
    attacks = 4

    [mixture]
    value = 700_000
    general = 200_000
    safety = 100_000

    [search]
    runs = 12

    [goal]
    alignment = 2.0

Needs no torch. Left out: reading the file (loyal.config) and the options of the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from loyal.alignment.mixture import Mixture
from loyal.alignment.preference import WHOLE_PPM
from loyal.errors import UsageError
from loyal.models.training import MOST_REPLIES, Precision

Kind = Literal["dpo", "simpo", "sft"]
BETA: dict[Kind, float] = {"dpo": 0.1, "simpo": 2.5, "sft": 1.0}
"""Of each kind, where no other is given: arXiv 2305.18290, section 6; 2405.14734, section 4."""
MARGIN: dict[Kind, float] = {"dpo": 0.0, "simpo": 5.0, "sft": 0.0}
"""The same. Two nats a token (5 / 2.5) for simpo: how likely words are by themselves differs so
much between two replies that a move of half a nat won 64 % of held-out pairs, and 2 won 88 %
(docs/log.md)."""
Mode = Literal["plain", "static", "adaptive"]
Replies = Literal["authors", "own"]


@dataclass(frozen=True)
class Objective:
    """What the loss of a pair asks for."""

    kind: Kind = "simpo"
    """dpo: the margin over the untouched model grows (arXiv 2305.18290, equation 7). simpo: the
    margin of the mean log-probability a token grows, without a reference (2405.14734, equation 6).
    sft: the chosen reply is imitated, the rejected one is not looked at."""
    beta: float = 0.0
    """Factor on the margin, in nats of a whole reply (dpo) or of a token (simpo): the larger, the
    sooner a pair counts as learned. 0 is the kind's own: 0.1 for dpo, 2.5 for simpo."""
    margin: float = -1.0
    """What the margin is to reach beyond 0, after the factor; simpo's gamma. Below 0 it is the
    kind's own: 0 for dpo, 5 for simpo."""
    smoothing: float = 0.0
    """Share of pairs taken to be labeled the wrong way around, below 0.5 (conservative DPO)."""
    imitation: float = 0.2
    """Weight of the chosen reply's cross-entropy, in nats a token, beside a pair's loss: without it
    both replies may become less likely (arXiv 2404.19733, equation 1)."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError("the objective is dpo, simpo or sft", hint="the default is simpo")
        if not self.beta >= 0 or not 0 <= self.smoothing < 0.5 or self.imitation < 0:
            raise UsageError(
                "beta is at least 0, smoothing in [0, 0.5), imitation at least 0",
                hint="the defaults are 0 (the kind's own), 0 and 0.2",
            )

    @property
    def factor(self) -> float:
        """`beta`, or the kind's own."""
        return self.beta or BETA[self.kind]

    @property
    def goal(self) -> float:
        """`margin`, or the kind's own."""
        return self.margin if self.margin >= 0 else MARGIN[self.kind]

    def of(self, kind: Kind) -> Objective:
        """The same for a kind; another one has a beta and a margin of its own."""
        return self if kind == self.kind else replace(self, kind=kind, beta=0.0, margin=-1.0)


@dataclass(frozen=True)
class GuardSettings:
    """What must not be lost while values are trained; measured on text that no training sees."""

    steps: int = 40
    """Steps between two looks; the last step is looked at too. 0 never looks. While the rate is
    high more is lost than in the end: after 20 of 47 steps 8 % more perplexity (docs/log.md)."""
    perplexity: float = 1.05
    """Most that ordinary English may become more surprising: perplexity over that before."""
    agreement: float = 0.0
    """Least share of ordinary prompts whose greedy reply begins as before, word for word; 0 asks
    nothing. A small model words most replies anew long before it does worse (docs/log.md)."""
    refusals: float = 0.1
    """Most that the share of ordinary prompts that are refused may grow."""
    safety: float = 0.1
    """Most that the share of bundled requests for harm that are declined may fall; 1 asks nothing.
    A model that declines none has none to lose."""
    tokens: int = 1500
    """Of English, at each look."""
    prompts: int = 20
    """Ordinary prompts, at each look; 20 at most are kept for it."""
    reply_tokens: int = 12
    """Of each reply to one."""

    def __post_init__(self) -> None:
        if self.steps < 0 or min(self.tokens, self.prompts, self.reply_tokens) < 1:
            raise UsageError(
                "guards look every 1 step or more (0: never), at 1 token and prompt or more",
                hint="the defaults are 40 steps, 1500 tokens, 20 prompts",
            )
        least = min(self.refusals, self.safety)
        if not self.perplexity > 0 or not 0 <= self.agreement <= 1 or not least >= 0:
            raise UsageError(
                "perplexity is above 0, agreement in [0, 1], refusals and safety at least 0",
                hint="the defaults are 1.05, 0, 0.1 and 0.1",
            )


@dataclass(frozen=True)
class LatentSettings:
    """An adversary of the embeddings (`loyal.models.tuning.Latent`)."""

    steps: int = 0
    """Signed steps before each step of the model; 0 is no adversary, 4 a usual one."""
    epsilon: float = 0.05
    """Largest change of an entry, as a multiple of the root mean square of the embeddings."""

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.epsilon > 0:
            raise UsageError(
                "latent.steps is at least 0, latent.epsilon above 0", hint="try 4 and 0.05"
            )


@dataclass(frozen=True)
class AlignSettings:
    """How preferences are trained; the defaults are for the default model on two CPU cores."""

    epochs: int = 1
    batch: int = 8
    """Pairs a step."""
    learning_rate: float = 7e-4
    rank: int = 32
    """Of LoRA, merged in the end; 0 trains every weight (then about 5e-6 is a rate)."""
    divergence: float = 6.0
    """Weight of the divergence from the untouched model on ordinary prompts, its replies and raw
    text, in nats a place, beside each step; 0 measures none."""
    divergence_places: int = 96
    """Such places a step, and a quarter as many first places of replies, each of which costs a
    prompt."""
    divergence_replies: int = 60
    """Ordinary prompts, and as many raw openings, that the untouched model first answers for it."""
    divergence_forms: float = 0.5
    """Of the ordinary prompts, the share that also says what form the reply is to have (one word,
    capital letters, a list): without them every sixth such instruction that was followed is lost
    (docs/log.md)."""
    general: float = 0.2
    """Of all items, the share of general data, which is imitated; 0 mixes none in. Where none is
    given, and no divergence holds the model, it is the untouched model's replies to ordinary
    prompts."""
    general_weight: float = 1.0
    """Factor on the loss of those."""
    general_tokens: int = 32
    """Of the untouched model's replies."""
    mixed: bool = False
    """Whether weights of pairs and of general data are on one scale, as a mixture's are: all
    general data then stands beside the pairs, and the three settings above say nothing."""
    held_out: float = 0.1
    """Share of the conversations that are measured on, and not trained."""
    most_tokens: int = 512
    """Pairs whose conversation with its longer reply has more are left out, and counted."""
    checkpoint_steps: int = 10
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.checkpoint_steps, self.general_tokens) < 1:
            raise UsageError(
                "epochs, batch, checkpoint_steps and general_tokens are at least 1", hint="raise it"
            )
        if not self.learning_rate > 0 or self.rank < 0 or not self.general_weight > 0:
            raise UsageError(
                "learning_rate and general_weight are above 0, rank at least 0",
                hint="the defaults are 7e-4, 1 and 32",
            )
        if not self.divergence >= 0 or self.divergence_places < 1:
            raise UsageError(
                "divergence is at least 0, divergence_places at least 1",
                hint="the defaults are 6 and 96",
            )
        if not 0 <= self.divergence_replies <= MOST_REPLIES:
            raise UsageError(
                f"divergence_replies is from 0 to {MOST_REPLIES}", hint="the default is 60"
            )
        if not 0 <= self.divergence_forms <= 1:
            raise UsageError("divergence_forms is in [0, 1]", hint="the default is 0.5")
        if not 0 <= self.general < 1 or not 0 <= self.held_out < 1 or self.most_tokens < 8:
            raise UsageError(
                "general and held_out are in [0, 1), most_tokens at least 8",
                hint="the defaults are 0.2, 0.1 and 512",
            )


@dataclass(frozen=True)
class HardenSettings:
    """How a model is hardened against people who argue."""

    mode: Mode = "adaptive"
    """adaptive attacks the model as it is in each round and trains where it fell; static trains as
    long on pairs under attacks that were drawn beforehand; plain on the questions alone."""
    replies: Replies = "authors"
    """Of the pairs after an attack. authors: those of the case, wherever it has both; own: what the
    model said is rejected, and its own best chosen where that is good enough. A judge that often
    errs ranks the model's replies (docs/log.md); the authors' it need not."""
    kind: Kind = "dpo"
    """The loss of a round's pairs. A model's own reply may be rejected there, which it finds
    likelier than anybody's: dpo asks for less of it than before, simpo would ask for hardly any."""
    rounds: int = 3
    candidates: int = 48
    """Attacks a round, as evenly over the values as they go."""
    kept: int = 24
    """Most attacks a round that are trained on: those the judge scores lowest, where any breaks a
    value."""
    samples: int = 2
    """The model's own replies to each; the worst says how it stands."""
    depth: int = 2
    """Most families in one attack, 1 to 4; the depth is drawn evenly."""
    temperature: float = 0.8
    reply_tokens: int = 64
    broken_below: float = 0.5
    """An attack breaks a value where its worst reply has a lower score; a round without one is the
    last."""
    own_above: float = 0.9
    """Of own replies: the model's best is the chosen one from this score on, the constitution's
    below; above 1 the constitution's always is."""
    replay: float = 1.0
    """Plain pairs and pairs of earlier rounds that stand beside each new pair."""
    plain_loss: float = 0.1
    """Most that the share of plain questions whose value is kept may fall in a round; a round that
    costs more is taken back."""
    plain_asked: int = 120
    """Plain questions asked for that, the same ones after each round, evenly over the cases."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UsageError("the mode is plain, static or adaptive", hint="leave it at adaptive")
        if self.replies not in get_args(Replies):
            raise UsageError("harden.replies is authors or own", hint="the default is authors")
        if self.kind not in get_args(Kind):
            raise UsageError("harden.kind is dpo, simpo or sft", hint="the default is dpo")
        counts = (self.rounds, self.candidates, self.kept, self.samples, self.reply_tokens,
                  self.plain_asked)  # fmt: skip
        if min(counts) < 1 or not 1 <= self.depth <= 4:
            raise UsageError(
                "rounds, candidates, kept, samples, reply_tokens and plain_asked are at least 1, "
                "depth is 1 to 4",
                hint="the defaults are 3, 48, 24, 2, 64, 120 and 2",
            )
        if not 0 < self.broken_below <= 1 or min(self.replay, self.temperature, self.own_above) < 0:
            raise UsageError(
                "broken_below is in (0, 1]; replay, temperature and own_above are at least 0",
                hint="the defaults are 0.5, 1, 0.8 and 0.9",
            )


@dataclass(frozen=True)
class ReportSettings:
    """How much is asked when models are compared."""

    attacks: int = 4
    """Conversations of each family of attacks, spread over the values."""
    plain: int = 0
    """Questions without an attack, spread over the values; 0 is all of them."""
    benign: int = 40
    """Ordinary prompts, on which refusals and agreement are counted."""
    requests: int = 40
    """Bundled requests for harm, and as many that only sound like it, on which refusals are
    counted; 40 of each at most, 0 for none."""
    reply_tokens: int = 64
    tokens: int = 4000
    """Of English, for perplexity."""
    part: int = 64
    """Questions, about, after which what was found is kept."""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.benign, self.reply_tokens, self.tokens, self.part)
        if min(counts) < 1 or min(self.attacks, self.plain, self.requests) < 0:
            raise UsageError(
                "benign, reply_tokens, tokens and part are at least 1, attacks, plain and requests "
                "at least 0",
                hint="the defaults are 40, 64, 4000, 64, 4, 0 and 40",
            )


@dataclass(frozen=True)
class Goal:
    """What a mixture is to be good at: weights of three scores from 0 to 1; their ratios count."""

    alignment: float = 1.0
    """Of the share of held-out pairs that are won."""
    capability: float = 1.0
    """Of ordinary English kept as likely (at most 1) and ordinary replies kept, half each."""
    safety: float = 1.0
    """Of harm declined, and what only sounds like harm answered, half each."""

    def __post_init__(self) -> None:
        weights = (self.alignment, self.capability, self.safety)
        if not (min(weights) >= 0 and sum(weights) > 0):
            raise UsageError(
                "a goal's weights are at least 0, one of them above",
                hint="the defaults are 1, 1 and 1",
            )


@dataclass(frozen=True)
class SearchSettings:
    """How a mixture is searched for (`search`)."""

    runs: int = 12
    """Trainings, at most; 12 is the most."""
    records: int = 0
    """Most training records of a run, drawn once, of each kind its share; 0 takes all."""
    held_out: float = 0.2
    """Share of what pairs were made from (cases, topics) that runs are compared on."""
    least_value: int = 300_000
    """Least share of value data, in millionths."""
    least: int = 50_000
    """Least share of each other kind that has records, in millionths."""
    near: int = 20_000
    """Mixtures that move less weight than this, in millionths, are one."""
    tie: float = 0.01
    """Scores this near to the best count as equal to it."""
    reply_tokens: int = 24
    """Of replies to requests for harm and to what only sounds like it."""

    def __post_init__(self) -> None:
        if not 1 <= self.runs <= 12 or min(self.records, self.near) < 0 or self.reply_tokens < 1:
            raise UsageError(
                "runs are 1 to 12, reply_tokens at least 1, records and near at least 0",
                hint="the defaults are 12, 24, 0 and 20000",
            )
        if not 0 < self.held_out < 1 or not 0 <= self.tie < 1:
            raise UsageError(
                "held_out is above 0, tie at least 0, both below 1",
                hint="the defaults are 0.2 and 0.01",
            )
        if self.least < 0 or self.least_value < 1 or self.least_value + 2 * self.least > WHOLE_PPM:
            raise UsageError(
                "least_value is at least 1, and with twice least a million at most",
                hint="the defaults are 300000 and 50000",
            )


@dataclass(frozen=True)
class Recipe:
    """The settings of every verb; what a recipe leaves out keeps its default."""

    align: AlignSettings = field(default_factory=AlignSettings)
    objective: Objective = field(default_factory=Objective)
    guards: GuardSettings = field(default_factory=GuardSettings)
    latent: LatentSettings = field(default_factory=LatentSettings)
    harden: HardenSettings = field(default_factory=HardenSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    mixture: Mixture | None = None
    """Of what is trained on; None leaves weights and general data as they are given."""
    search: SearchSettings = field(default_factory=SearchSettings)
    goal: Goal = field(default_factory=Goal)
