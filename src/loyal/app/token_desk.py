"""What a host does about its tokens while it serves: learns which it has, reports which it used.

A report that was lost on its way is made again; a use that the log has already is done. Failures
are logged and tried again, since a host has hours to report. Left out: the file (`token_purse`).
"""

from __future__ import annotations

import asyncio
import logging

from loyal.app.platform_api import PlatformApi
from loyal.app.token_purse import SqliteTokens
from loyal.errors import EndpointError, LoyalError, ProtocolError
from loyal.protocol.tokens import MOST_USES, ReportTokens

PAUSE_SECONDS = 15.0

_log = logging.getLogger("loyal.gateway")


class TokenDesk:
    """For one license. `api` signs with the host's key."""

    def __init__(
        self, api: PlatformApi, host: bytes, license: bytes, purse: SqliteTokens,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:  # fmt: skip
        self._api, self._host, self._license = api, host, license
        self._purse, self._pause = purse, pause_seconds

    async def run(self) -> None:
        """A look at once, and then one every `pause_seconds`, until cancelled."""
        while True:
            try:
                await self.look()
            except LoyalError as error:
                _log.warning("tokens: %s; %s", error, error.hint)
            await asyncio.sleep(self._pause)

    async def look(self) -> int:
        """Learn what was bought, report what was used; gives how many uses the log took.

        EndpointError where the platform cannot be asked, StorageError.
        """
        known = await self._api.tokens(self._license)
        await self._purse.learn(known.purchases, known.reported_below)
        count = 0
        while uses := await self._purse.unreported(MOST_USES):
            await self._report(uses)
            await self._purse.reported([number for number, _ in uses])
            count += len(uses)
        return count

    async def _report(self, uses: tuple[tuple[int, bytes], ...]) -> None:
        try:
            await self._api.submit(ReportTokens(self._host, self._license, uses))
        except ProtocolError as error:
            if error.rule != "T2":
                raise EndpointError(str(error), hint=error.hint) from None
            if len(uses) > 1:  # one of them is there already, since its answer was lost
                for one in uses:
                    await self._report((one,))
