"""What Alembic runs: the steps, on the connection and in the transaction that schema.py opened."""

from alembic import context


def run() -> None:
    """Run the steps that the command asked for."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table=attributes["version_table"],
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if __name__ == "env_py":  # the name that Alembic gives this file when it runs it
    run()
