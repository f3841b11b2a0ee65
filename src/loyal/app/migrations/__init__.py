"""The steps from an empty database to today's tables; `loyal.app.schema` runs them.

There is no alembic.ini: users have nothing to set up.
"""
