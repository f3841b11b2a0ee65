"""The tables of the store, and bringing a database to them (Alembic, run from here).

`entries` is the truth. `receipts` are what hosts were given: the log holds only their batch's root.
`checkpoints` are what the log has signed. Nothing in them is ever updated or deleted.
"""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from loyal.errors import StorageError

VERSION_TABLE = "loyal_version"
FOLDER = Path(__file__).parent / "migrations"

metadata = sa.MetaData()

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""Canonical bytes of each event, by its place in the log, from 0 without a gap."""

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("license", sa.LargeBinary, nullable=False),
    sa.Column("idempotency_key", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("place", sa.BigInteger, nullable=False),
    sa.Column("receipt", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("license", "idempotency_key", name="one_receipt_a_key"),
)
"""One a permission, in the order in which they were given; found by license and key."""

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("note", sa.LargeBinary, nullable=False),
)
"""The signed note of each size at which the log was made durable."""


_ALEMBIC = threading.Lock()
"""Alembic keeps the step that it runs in a global."""


def migrate(connection: sa.Connection, target: str = "head") -> None:
    """Bring the database to `target` (a revision, `head` or `base`), in the transaction that is
    open on the connection.

    StorageError for a database that a newer loyal has written, or that holds other tables of ours.
    """
    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    known = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()
    if target == "head" and current == known.get_current_head():
        return
    if current is None and set(sa.inspect(connection).get_table_names()) & set(metadata.tables):
        raise StorageError(
            "the database has tables of these names that loyal did not make",
            hint="give loyal a database of its own, or a path that does not exist yet",
        )
    run = command.downgrade if target == "base" else command.upgrade
    try:
        with _ALEMBIC:
            run(config, target)
    except CommandError as error:
        raise StorageError(
            "the database was written by a newer loyal", hint="pip install --upgrade loyal"
        ) from error
