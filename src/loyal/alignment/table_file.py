"""A file that is one JSON object of a format: bounded, and refused in one line where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loyal.encoding import read_json
from loyal.errors import ConfigError


@dataclass(frozen=True)
class TableForm:
    """One kind of such files."""

    format: str
    """What stands under `format` in each of them."""
    what: str
    """What such a file is, for errors."""
    command: str
    """What writes one."""
    most_bytes: int

    def read(self, path: Path) -> dict[str, Any]:
        """The object. ConfigError for a file that cannot be read or is of another form."""
        try:
            if path.stat().st_size > self.most_bytes:
                raise self.misfit(path)
            table = read_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}: {error.strerror}", hint=f"name what '{self.command}' wrote"
            ) from None
        except (ValueError, RecursionError):
            raise self.misfit(path) from None
        if not isinstance(table, dict) or table.get("format") != self.format:
            raise self.misfit(path)
        return table

    def misfit(self, path: Path) -> ConfigError:
        """The error for a file of another form."""
        return ConfigError(
            f"{path} is no {self.what}, or it is damaged",
            hint=f"name another file, or move it away and run '{self.command}'",
        )
