"""A platform's folder: its two secret keys, its settings, its API keys, its database.

    identity.key    the seed that signs permissions and licenses   only its owner may read it
    log.key         the seed that signs the log's checkpoints      only its owner may read it
    platform.toml   the log's name, the community's parameters
    api-keys        a hash for each API key of a host
    platform.db     the log (docs/store.md), unless it stands in another database

Parameters hold for the whole log: changed later, they make another state of it.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

from loyal import config
from loyal.app.key_files import signing_key
from loyal.encoding import atomic_write
from loyal.errors import LedgerError, UsageError
from loyal.protocol import NoteSigner, Parameters
from loyal.protocol.note import check_name
from loyal.roles import PlatformKeys
from loyal.signing import SigningKey

IDENTITY, LOG, SETTINGS = "identity.key", "log.key", "platform.toml"
API_KEYS, DATABASE = "api-keys", "platform.db"


@dataclass(frozen=True)
class PlatformSettings:
    """What platform.toml says."""

    origin: str
    """The log's name, for its checkpoints."""
    parameters: Parameters = field(default_factory=Parameters)


@dataclass(frozen=True)
class PlatformFolder:
    """One folder."""

    path: Path

    def make(self, origin: str | None, parameters: Parameters) -> PlatformKeys:
        """Draw both keys and write the settings. UsageError where a platform stands already."""
        if (self.path / IDENTITY).exists() or (self.path / SETTINGS).exists():
            raise UsageError("a platform stands in this folder", hint="name another --folder")
        identity, log = SigningKey.generate(), SigningKey.generate()
        name = origin or f"loyal.invalid/{identity.public.hex()[:16]}"
        _require_name(name)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        values = dataclasses.asdict(parameters)
        lines = [f'origin = "{name}"', "", "[parameters]"]
        lines += [f"{key} = {value}" for key, value in values.items()]
        for file, key in ((IDENTITY, identity), (LOG, log)):
            atomic_write(self.path / file, f"{key.seed().hex()}\n".encode(), private=True)
        atomic_write(self.path / SETTINGS, "\n".join([*lines, ""]).encode())
        return PlatformKeys(identity, NoteSigner(name, log))

    def settings(self) -> PlatformSettings:
        """Of platform.toml. UsageError, ConfigError."""
        if not (self.path / SETTINGS).is_file():
            raise UsageError(
                f"no platform stands in {self.path}", hint="run 'loyal platform init' first"
            )
        found = config.load(PlatformSettings, self.path / SETTINGS)
        _require_name(found.origin)
        return found

    def keys(self) -> PlatformKeys:
        """Both keys. UsageError where one is missing, or others may read it."""
        origin = self.settings().origin
        identity = signing_key(self.path / IDENTITY, IDENTITY)
        return PlatformKeys(identity, NoteSigner(origin, signing_key(self.path / LOG, LOG)))

    @property
    def api_keys(self) -> Path:
        """The file of hosts' keys."""
        return self.path / API_KEYS

    @property
    def store_url(self) -> str:
        """The database, where no other one is named."""
        return f"sqlite:///{os.path.abspath(self.path / DATABASE)}"


def _require_name(name: str) -> None:
    try:
        check_name(name)
    except LedgerError:
        name = ""
    if not name or '"' in name or "\\" in name:
        raise UsageError(
            "this is no name for a log", hint="such as example.com/log, without spaces and quotes"
        )
