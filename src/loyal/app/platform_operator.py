"""Commands of a platform's operator: signed with the platform's key, over HTTP or on its database.

While a platform serves, send them over HTTP: it then knows at once. On the database they are taken
by a platform of this process; one that serves reads on at its next step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from loyal.app.key_files import FILE
from loyal.app.platform_folder import PlatformFolder
from loyal.app.terminal import Decorator
from loyal.errors import UsageError
from loyal.protocol import Command

OPERATOR_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--folder", type=FILE, required=True, metavar="DIR", help="The platform's folder."
    ),
    click.option(
        "--platform",
        metavar="URL",
        help="The address of the platform that serves; else its database is written.",
    ),
    click.option(
        "--store", metavar="URL", help="Another database, such as postgresql://user@host/name."
    ),
)


@dataclass(frozen=True)
class Operator:
    """Whoever has a platform's folder."""

    folder: PlatformFolder
    url: str | None
    store: str | None

    @classmethod
    def take(cls, options: dict[str, Any]) -> Operator:
        """Of a command's options. UsageError for a platform and a database at once."""
        folder: Path = options["folder"]
        if options["platform"] is not None and options["store"] is not None:
            raise UsageError(
                "a command goes to a platform or to a database", hint="give --platform or --store"
            )
        return cls(PlatformFolder(folder), options["platform"], options["store"])

    async def submit(self, commands: Sequence[Command]) -> None:
        """Have them taken, one after another. ProtocolError, StorageError, EndpointError."""
        keys = self.folder.keys()
        if self.url is not None:
            from loyal.app.platform_api import PlatformApi

            api = PlatformApi(self.url, keys.identity)
            try:
                for one in commands:
                    await api.submit(one)
            finally:
                await api.close()
            return
        from loyal.app.store import open_store
        from loyal.roles import Platform

        with contextlib.closing(open_store(self.store or self.folder.store_url)) as store:
            platform = Platform(store, keys, self.folder.settings().parameters)
            for one in commands:
                platform.submit(one, int(time.time()))
