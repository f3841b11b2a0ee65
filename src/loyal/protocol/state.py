"""What the community has agreed on so far: the fold of the ledger's events, and nothing else.

`State.record(index, event)` is the only thing that changes a state, and it decides nothing, so that
a replay of the log gives the same state as living through it. What may happen is decided by the
rules (`stake`, `lineage`, `licenses`, `permits`, `disputes`, `convictions`), which read a state and
return events; `apply` brings them together.

Left out: rules, signatures, the log's bytes and storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from loyal.errors import ProtocolError
from loyal.protocol import events as e
from loyal.protocol.parameters import Parameters


@dataclass(frozen=True)
class Moment:
    """When and where in the log something is asked for."""

    seconds: int
    """Unix time; windows and expiries are compared with it, the order of things never is."""
    index: int
    """The place in the log that the first resulting event will get."""
    beacon: bytes
    """The log's root before it, 32 bytes."""


@dataclass
class Model:
    """A model in the registry."""

    publisher: bytes
    weights: bytes
    parent: bytes | None
    fingerprint_root: bytes
    shares_bps: tuple[tuple[bytes, int], ...]
    challenged_until: int
    index: int
    """Its place in the log: an ancestor's is lower."""


@dataclass
class License:
    """A license in force, or over."""

    host: bytes
    model: bytes
    terms: bytes
    expires: int
    usage: e.UsageCommitted | None = None
    weights: bytes | None = None
    """Digest of M.oml, once it is delivered."""
    permitted: int = 0
    """Permissions given so far: the next sequence number."""
    tokens: int = 0
    """Allowance tokens bought so far: the next one's number."""
    allowances: list[tuple[int, int, int]] = field(default_factory=list)
    """(first token, how many, when they are ripe) of each purchase."""
    reported: dict[int, bytes] = field(default_factory=dict)
    """Token -> digest of the answer that it went to."""
    reported_below: int = 0
    """Above every token that was reported."""
    ended: bool = False
    draws: int = 0
    forgiven: int = 0
    """Draws before a conviction that was quashed: neither they nor their claims count any more."""
    drawn: e.KeyDrawn | None = None
    """The last key drawn, and whose it is."""
    demanded: e.AnswerDemanded | None = None
    """The answer that its prover demanded in the log."""
    closed: bool = True
    """Whether that draw came to its claim."""
    open_claims: int = 0
    """Claims that are not settled, of breaches too."""
    upheld: list[bytes] = field(default_factory=list)
    """Claims that were upheld and count, oldest first."""
    conviction: e.Convicted | None = None
    appeal: e.Appealed | None = None
    settled: bool = False
    """Whether a conviction was slashed."""


@dataclass
class Claim:
    """An accusation, and how far it has come."""

    made: e.Claimed
    opened: e.LeafOpened | None = None
    settled: bool = False
    upheld: bool = False
    rebutted: bool = False


@dataclass
class Breach:
    """A claim that values are broken."""

    made: e.BreachClaimed
    promise: e.PromptsPromised
    settled: bool = False
    upheld: bool = False


@dataclass
class State:
    """Everything that the rules read. Equal states came from equal events."""

    platform: bytes
    """Public key of the platform, which credits money and issues permissions."""
    parameters: Parameters = field(default_factory=Parameters)
    balances: dict[str, int] = field(default_factory=dict)
    releases: dict[tuple[bytes, str], int] = field(default_factory=dict)
    """(party, purpose) -> when the stake on its way back is free."""
    models: dict[bytes, Model] = field(default_factory=dict)
    weights: set[bytes] = field(default_factory=set)
    challenges: dict[bytes, e.LineageChallenged] = field(default_factory=dict)
    settled_challenges: set[bytes] = field(default_factory=set)
    licenses: dict[bytes, License] = field(default_factory=dict)
    batches: dict[int, bytes] = field(default_factory=dict)
    """Place in the log -> root of the permission batch there."""
    commitments: dict[tuple[bytes, int], tuple[bytes, int]] = field(default_factory=dict)
    """(license, draw) -> its prover's commitment, place in the log."""
    committed_at: dict[tuple[bytes, int], int] = field(default_factory=dict)
    """(license, draw) -> the second of that commitment."""
    demands: dict[bytes, e.AnswerDemanded] = field(default_factory=dict)
    answered: set[bytes] = field(default_factory=set)
    """Demands that the host met."""
    claims: dict[bytes, Claim] = field(default_factory=dict)
    spent: set[bytes] = field(default_factory=set)
    """Nullifiers of keys that were claimed: a pair is spent once."""
    violations: set[bytes] = field(default_factory=set)
    """Signed answers outside of a license's purpose that were shown (U2)."""
    promises: dict[bytes, e.PromptsPromised] = field(default_factory=dict)
    orders: dict[bytes, e.OrderDrawn] = field(default_factory=dict)
    """Promise -> the order of its prompts."""
    breaches: dict[bytes, Breach] = field(default_factory=dict)
    breach_ballots: dict[bytes, bytes] = field(default_factory=dict)
    """Ballot -> its breach: two of each."""
    verdicts: dict[bytes, dict[bytes, bool]] = field(default_factory=dict)
    """Case -> verifier -> what it signed."""
    numbers: dict[bytes, int] = field(default_factory=dict)
    """Author -> the highest number of its commands (K2)."""
    seconds: int = 0
    """The latest time in the log; it never runs back (K3)."""
    length: int = 0
    """Events recorded."""
    _bonds: dict[str, dict[str, int]] = field(init=False, repr=False, compare=False)
    """Purpose -> party in hex -> bond: as in `balances`, so that an electorate needs no search."""
    _bonded: dict[str, dict[str, int]] = field(init=False, repr=False, compare=False)
    """Party in hex -> purpose -> bond: the same, for whoever looks at one account."""
    _claims: dict[bytes, list[bytes]] = field(init=False, repr=False, compare=False)
    """License -> its claims, oldest first."""
    _challenges: dict[bytes, list[bytes]] = field(init=False, repr=False, compare=False)
    """Model -> its challenges, oldest first."""

    def __post_init__(self) -> None:
        self._bonds, self._bonded, self._claims, self._challenges = {}, {}, {}, {}
        for account in self.balances:
            _index(self, account)
        for name, claim in self.claims.items():
            self._claims.setdefault(claim.made.license, []).append(name)
        for name, challenge in self.challenges.items():
            self._challenges.setdefault(challenge.model, []).append(name)

    def balance(self, account: str) -> int:
        """Millionths in an account."""
        return self.balances.get(account, 0)

    def staked(self, purpose: str, party: bytes) -> int:
        """What can be slashed: the bond, and what is on its way back."""
        return self.balance(e.bond(purpose, party)) + self.balance(e.unbonding(purpose, party))

    def electorate(self, purpose: str = "verifier") -> tuple[tuple[bytes, int], ...]:
        """Everybody with a bond for a purpose, by key, with the bond."""
        bonds = self._bonds.get(purpose, {})
        return tuple(sorted((bytes.fromhex(party), amount) for party, amount in bonds.items()))

    def bonds_of(self, party: bytes) -> dict[str, int]:
        """A party's bonds by purpose, each above 0. O(answer), as the two below."""
        return dict(self._bonded.get(party.hex(), {}))

    def claims_on(self, license: bytes) -> tuple[bytes, ...]:
        """The claims on a license, oldest first."""
        return tuple(self._claims.get(license, ()))

    def challenges_of(self, model: bytes) -> tuple[bytes, ...]:
        """The lineage challenges of a model, oldest first."""
        return tuple(self._challenges.get(model, ()))

    def record(self, index: int, event: e.Event) -> None:
        """Fold one event in. ProtocolError where the log has a gap, or money would go below 0."""
        if index != self.length:
            raise ProtocolError(
                f"the log goes on at {self.length}, not at {index}",
                hint="replay every entry once, in order",
            )
        _FOLDS[type(event)](self, event)
        self.length += 1

    def replay(self, log: Iterable[e.Event]) -> State:
        """Record all events, from where this state stands; gives itself."""
        for event in log:
            self.record(self.length, event)
        return self


def _command_taken(state: State, event: e.CommandTaken) -> None:
    state.numbers[event.author] = event.number
    state.seconds = max(state.seconds, event.seconds)


def _moved(state: State, event: e.Moved) -> None:
    left = state.balance(event.source) - event.amount_micro
    if event.amount_micro < 0 or (left < 0 and event.source != e.OUTSIDE):
        raise ProtocolError(
            "an account would go below 0", hint="the log is not one that the rules wrote"
        )
    state.balances[event.source] = left
    state.balances[event.target] = state.balance(event.target) + event.amount_micro
    _index(state, event.source)
    _index(state, event.target)


def _index(state: State, account: str) -> None:
    kind, _, rest = account.partition(":")
    if kind != "bond":
        return
    purpose, _, party = rest.rpartition(":")
    amount = state.balances[account]
    for index, outer, inner in (
        (state._bonds, purpose, party), (state._bonded, party, purpose)
    ):  # fmt: skip
        bonds = index.setdefault(outer, {})
        if amount:
            bonds[inner] = amount
        else:
            bonds.pop(inner, None)
            if not bonds:
                del index[outer]


def _unbonding_begun(state: State, event: e.UnbondingBegun) -> None:
    state.releases[event.party, event.purpose] = event.releases_at


def _model_published(state: State, event: e.ModelPublished) -> None:
    state.weights.add(event.weights)
    state.models[event.model] = Model(
        event.publisher,
        event.weights,
        event.parent,
        event.fingerprint_root,
        event.shares_bps,
        event.challenged_until,
        state.length,
    )


def _lineage_challenged(state: State, event: e.LineageChallenged) -> None:
    state.challenges[event.challenge] = event
    state._challenges.setdefault(event.model, []).append(event.challenge)


def _lineage_settled(state: State, event: e.LineageSettled) -> None:
    state.settled_challenges.add(event.challenge)
    state.models[state.challenges[event.challenge].model].parent = event.parent


def _license_signed(state: State, event: e.LicenseSigned) -> None:
    state.licenses[event.license] = License(event.host, event.model, event.terms, event.expires)


def _usage_committed(state: State, event: e.UsageCommitted) -> None:
    state.licenses[event.license].usage = event


def _model_delivered(state: State, event: e.ModelDelivered) -> None:
    state.licenses[event.license].weights = event.weights


def _license_ended(state: State, event: e.LicenseEnded) -> None:
    state.licenses[event.license].ended = True


def _batch_issued(state: State, event: e.BatchIssued) -> None:
    state.batches[state.length] = event.root
    state.seconds = max(state.seconds, event.seconds)
    for license, _, count in event.usage:
        state.licenses[license].permitted += count


def _tokens_bought(state: State, event: e.TokensBought) -> None:
    license = state.licenses[event.license]
    license.tokens = event.first + event.count
    license.allowances.append((event.first, event.count, event.ripe))


def _tokens_reported(state: State, event: e.TokensReported) -> None:
    license = state.licenses[event.license]
    license.reported.update(event.uses)
    license.reported_below = max(license.reported_below, *(one + 1 for one, _ in event.uses))


def _key_drawn(state: State, event: e.KeyDrawn) -> None:
    license = state.licenses[event.license]
    license.draws, license.drawn, license.closed = event.number + 1, event, False
    license.demanded = None


def _committed(state: State, event: e.Committed) -> None:
    state.commitments[event.license, event.number] = event.commitment, state.length
    state.committed_at[event.license, event.number] = event.seconds


def _answer_demanded(state: State, event: e.AnswerDemanded) -> None:
    state.demands[event.demand] = event
    state.licenses[event.license].demanded = event


def _answer_given(state: State, event: e.AnswerGiven) -> None:
    state.answered.add(event.demand)


def _claimed(state: State, event: e.Claimed) -> None:
    state.claims[event.claim] = Claim(event)
    state._claims.setdefault(event.license, []).append(event.claim)
    state.spent.add(event.nullifier)
    license = state.licenses[event.license]
    license.closed = True
    license.open_claims += 1


def _leaf_opened(state: State, event: e.LeafOpened) -> None:
    state.claims[event.claim].opened = event


def _rebutted(state: State, event: e.Rebutted) -> None:
    state.claims[event.claim].rebutted = True


def _verdict_given(state: State, event: e.VerdictGiven) -> None:
    state.verdicts.setdefault(event.case, {})[event.verifier] = event.holds


def _claim_settled(state: State, event: e.ClaimSettled) -> None:
    claim = state.claims[event.claim]
    claim.settled, claim.upheld = True, event.upheld
    license = state.licenses[claim.made.license]
    license.open_claims -= 1
    if event.upheld and claim.made.number >= license.forgiven:
        license.upheld.append(event.claim)


def _violation_shown(state: State, event: e.ViolationShown) -> None:
    state.violations.add(event.violation)


def _prompts_promised(state: State, event: e.PromptsPromised) -> None:
    state.promises[event.promise] = event


def _order_drawn(state: State, event: e.OrderDrawn) -> None:
    state.orders[event.promise] = event


def _breach_claimed(state: State, event: e.BreachClaimed) -> None:
    promise = state.promises[event.promise]
    state.breaches[event.breach] = Breach(event, promise)
    state.breach_ballots.update({event.descent: event.breach, event.deviation: event.breach})
    state.licenses[promise.license].open_claims += 1


def _breach_settled(state: State, event: e.BreachSettled) -> None:
    one = state.breaches[event.breach]
    one.settled, one.upheld = True, event.upheld
    state.licenses[one.promise.license].open_claims -= 1


def _convicted(state: State, event: e.Convicted) -> None:
    state.licenses[event.license].conviction = event


def _appealed(state: State, event: e.Appealed) -> None:
    state.licenses[event.license].appeal = event


def _conviction_settled(state: State, event: e.ConvictionSettled) -> None:
    license = state.licenses[event.license]
    license.settled = event.slashed
    license.ended = license.ended or event.slashed
    if not event.slashed:
        license.conviction = license.appeal = None
        license.upheld.clear()
        license.forgiven = license.draws


_FOLDS: dict[type[e.Event], Callable[[State, Any], None]] = {
    e.CommandTaken: _command_taken,
    e.Moved: _moved,
    e.UnbondingBegun: _unbonding_begun,
    e.ModelPublished: _model_published,
    e.LineageChallenged: _lineage_challenged,
    e.LineageSettled: _lineage_settled,
    e.LicenseSigned: _license_signed,
    e.UsageCommitted: _usage_committed,
    e.ModelDelivered: _model_delivered,
    e.LicenseEnded: _license_ended,
    e.BatchIssued: _batch_issued,
    e.TokensBought: _tokens_bought,
    e.TokensReported: _tokens_reported,
    e.KeyDrawn: _key_drawn,
    e.Committed: _committed,
    e.AnswerDemanded: _answer_demanded,
    e.AnswerGiven: _answer_given,
    e.Claimed: _claimed,
    e.LeafOpened: _leaf_opened,
    e.Rebutted: _rebutted,
    e.VerdictGiven: _verdict_given,
    e.ClaimSettled: _claim_settled,
    e.ViolationShown: _violation_shown,
    e.PromptsPromised: _prompts_promised,
    e.OrderDrawn: _order_drawn,
    e.BreachClaimed: _breach_claimed,
    e.BreachSettled: _breach_settled,
    e.Convicted: _convicted,
    e.Appealed: _appealed,
    e.ConvictionSettled: _conviction_settled,
}
