"""The numbers that the rules read, all in one place; a community settles them once, in the log.

Windows are in seconds, money in millionths (`_micro`) of whatever the community counts in, shares
in hundredths of a percent (`_bps`). No float: the numbers are part of a signed record.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from loyal.errors import UsageError

WHOLE_BPS = 10_000
"""All of something, in hundredths of a percent."""


@dataclass(frozen=True)
class Parameters:
    """What a community may choose; the defaults are chosen to be safe, with their reasons."""

    unbond_seconds: int = 21 * 86_400
    """From asking for a stake back to having it; it can be slashed up to the last second. Above
    `floor_seconds`, which is 15 days (EigenLayer's delay is 14), with six to spare."""
    rebuttal_seconds: int = 2 * 86_400
    """The host's time to show a receipt, from the opened leaf."""
    opening_seconds: int = 86_400
    """The vault's time to open the leaf of a claim, from the claim."""
    verdict_seconds: int = 3 * 86_400
    """The verifiers' time, from the end of the rebuttal."""
    appeal_seconds: int = 3 * 86_400
    """The host's time to appeal a conviction, and the verifiers' to decide on it."""
    answer_seconds: int = 86_400
    """The host's time to sign an answer that is demanded in the log."""
    draw_seconds: int = 86_400
    """How long a drawn key waits for its prover before the next one is drawn; and how long the
    prover has to claim a demand that passed."""
    report_seconds: int = 6 * 3_600
    """The host's time to report the token of an answer, from the prover's commitment."""
    lineage_seconds: int = 7 * 86_400
    """How long a new model can be challenged ("one week after onboarding", Sentient's docs)."""
    publish_bond_micro: int = 1_000_000
    """What a publisher risks on the lineage it states."""
    role_bond_micro: int = 1_000_000
    """The least bond of a prover or a verifier: ten claims' worth, so that each name costs one."""
    claim_bond_micro: int = 100_000
    """What a prover risks on each claim."""
    appeal_bond_micro: int = 1_000_000
    """What a host risks on an appeal."""
    bounty_bps: int = 1_000
    """Of a slash, to the provers whose claims were upheld; at most 1,000: a host must not gain by
    accusing itself (UMA audit H01)."""
    owners_bps: int = 4_500
    """Of a slash, to the owners; the rest is burned. With the bounty it stays below all of it."""
    violation_bps: int = 1_000
    """Of a license's stake, for each signed answer outside of its purpose."""
    quorum_bps: int = 6_667
    """Of the verifiers' stake when the claim was made, for a verdict."""
    least_provers: int = 3
    """Independent provers behind a conviction."""
    false_conviction_one_in: int = 1_000_000_000
    """A host whose model was made without the set is convicted once in so many, at most."""
    royalty_bps: int = 2_000
    """Of a descendant's fees, to the owners of its parent, and so on upwards."""

    def __post_init__(self) -> None:
        if any(type(one) is not int or one < 1 for one in astuple(self)):
            raise UsageError("every parameter is a whole number above 0", hint="raise it")
        if self.bounty_bps > 1_000 or self.bounty_bps + self.owners_bps >= WHOLE_BPS:
            raise UsageError(
                "the bounty is at most 1,000, and with the owners' part below 10,000",
                hint="lower bounty_bps or owners_bps: what is left is burned",
            )
        if self.report_seconds >= self.draw_seconds:
            raise UsageError(
                "a token is reported while its draw is open",
                hint="lower report_seconds below draw_seconds",
            )
        if self.violation_bps > WHOLE_BPS:
            raise UsageError(
                "a violation costs at most all of the stake", hint="lower violation_bps"
            )
        if not WHOLE_BPS // 2 < self.quorum_bps <= WHOLE_BPS or self.royalty_bps >= WHOLE_BPS:
            raise UsageError(
                "a quorum is more than half, and royalties are less than all of the fees",
                hint="the defaults are 6,667 and 2,000",
            )
        if self.unbond_seconds <= self.floor_seconds:
            raise UsageError(
                f"stake is given back after {self.unbond_seconds} seconds, but a claim takes up "
                f"to {self.floor_seconds}",
                hint="raise unbond_seconds above the sum of the windows",
            )

    @property
    def ripening_seconds(self) -> int:
        """From buying a token to using it: the longest that a drawn key can be out (T1)."""
        return 2 * self.draw_seconds + self.answer_seconds

    @property
    def floor_seconds(self) -> int:
        """The longest way from a probe to a slash; unbonding takes longer, or it is an escape."""
        return (
            2 * self.draw_seconds
            + self.answer_seconds
            + self.opening_seconds
            + self.rebuttal_seconds
            + self.verdict_seconds
            + 2 * self.appeal_seconds
        )
