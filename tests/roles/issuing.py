"""A platform on the stage of tests/protocol/parties.py: it really issues, in batches, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from parties import Stage, licensed

from loyal.errors import EndpointError, ProtocolError
from loyal.protocol import Terms, permits
from loyal.protocol.parameters import Parameters
from loyal.protocol.permits import PermissionRequest
from loyal.roles import Host, SignedLicense
from loyal.signing import PublicKey


class Issuer:
    """A `PermissionSource` with a state, a log and a key of its own."""

    def __init__(self, now: int = 1_800_000_000, **terms: object) -> None:
        """Its clock stands at `now`; give the real one where a real process is the host."""
        self.stage: Stage
        self.stage, self.license = licensed(Parameters(), now, **terms)
        self.calls: list[int] = []
        """How many requests each call brought."""
        self.down = False
        self.slow_seconds = 0.0

    @property
    def terms(self) -> Terms:
        """Of the one license."""
        return Terms.from_bytes(self.stage.state.licenses[self.license].terms)

    @property
    def public(self) -> PublicKey:
        """The platform's key."""
        return self.stage.key("platform").public

    def host(self) -> Host:
        """The host of the license."""
        return Host(self.stage.key("host"), self.terms, self.public, clock=lambda: self.stage.now)

    def license_file(self) -> SignedLicense:
        """What the host was sent."""
        terms, stage = self.terms, self.stage
        return SignedLicense(
            terms, self.public, terms.sign(stage.key("host")), terms.sign(stage.key("platform"))
        )

    async def permit(self, requests: Sequence[PermissionRequest]) -> list[bytes | ProtocolError]:
        """Issue what the rules allow."""
        await asyncio.sleep(self.slow_seconds)
        self.calls.append(len(requests))
        if self.down:
            raise EndpointError("the platform is down", hint="wait")
        return self.issue(requests)

    def issue(self, requests: Sequence[PermissionRequest]) -> list[bytes | ProtocolError]:
        """Decide, record, and give each its receipt or refusal."""
        stage = self.stage
        issued = permits.issue(
            stage.state, requests, stage.permitted, stage.at, stage.key("platform")
        )
        stage.record(issued.events)
        results: list[bytes | ProtocolError] = []
        for number, request in enumerate(requests):
            name, position = (request.license, request.idempotency_key), issued.positions[number]
            if number in issued.refusals:
                results.append(issued.refusals[number])
                continue
            if position is not None:
                assert issued.batch is not None
                stage.permitted[name] = request.body
                stage.receipts[name] = issued.batch.receipt(position)
            results.append(stage.receipts[name].to_bytes())
        return results
