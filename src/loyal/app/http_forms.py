"""The forms of the platform's answers, for its OpenAPI page (docs/protocol.md, The API)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ErrorFields(BaseModel):
    """Why a request was refused."""

    rule: str | None = Field(description="The rule's number in docs/protocol.md, if one refused.")
    message: str
    hint: str = Field(description="The next step.")


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: ErrorFields


class CommandAnswer(BaseModel):
    """What followed from a command."""

    index: int = Field(description="Place of the signed command; the events stand right after.")
    events: list[dict[str, Any]]


class PlatformAnswer(BaseModel):
    """Who the platform is."""

    platform: Hex32
    log: str
    log_key: str
    length: int
    parameters: dict[str, int]


class EntriesAnswer(BaseModel):
    """Entries of the log from `start` on; may be fewer than asked for."""

    start: int
    entries: list[str]


class HashesAnswer(BaseModel):
    """An RFC 6962 proof, its hashes in base64."""

    hashes: list[str]


class DrawnFields(BaseModel):
    """The last key drawn."""

    number: int
    prover: Hex32
    until: int
    closed: bool


class ConvictionFields(BaseModel):
    """A conviction that stands."""

    claim: Hex32
    hits: int
    draws: int
    appeal_until: int
    appealed_until: int | None


class PurchaseFields(BaseModel):
    """Allowance tokens that were bought at once (rules T)."""

    first: int
    count: int
    ripe: int = Field(description="Unix second from which they may be used.")


class TokenFields(BaseModel):
    """A license's allowance tokens."""

    bought: int
    reported: int
    reported_below: int = Field(description="Above every token that was reported.")
    purchases: list[PurchaseFields]


class LicenseAnswer(BaseModel):
    """How a license stands."""

    license: Hex32
    host: Hex32
    model: Hex32
    expires: int
    permitted: int
    delivered: bool
    ended: bool
    draws: int
    upheld: int
    open_claims: int
    usage_root: Hex32 | None
    keys: int
    slashed: bool
    stake_micro: int
    tokens: TokenFields
    drawn: DrawnFields | None
    conviction: ConvictionFields | None


class AccountAnswer(BaseModel):
    """A party's money, in millionths."""

    free_micro: int
    bonds: dict[str, int]
    last_number: int = Field(description="Of its commands; -1 before the first.")


class VoteFields(BaseModel):
    """One verifier of an electorate."""

    verifier: Hex32
    weight_micro: int
    holds: bool | None


class ClaimAnswer(BaseModel):
    """How a claim stands."""

    claim: Hex32
    license: Hex32
    host: Hex32
    number: int
    prover: Hex32
    state: str
    until: int | None
    for_bps: int
    against_bps: int
    quorum_bps: int
    votes: list[VoteFields]


class ClaimsAnswer(BaseModel):
    """The claims on a license."""

    claims: list[ClaimAnswer]


class DrawAnswer(BaseModel):
    """The key that is out to its prover: a secret."""

    number: int
    until: int
    key: str


class EvidenceAnswer(BaseModel):
    """What a verifier checks a claim with."""

    key: str
    reply: str
    salt: str
    proof: str
    beacon: str


class HealthAnswer(BaseModel):
    """The platform runs."""

    status: str
    length: int
