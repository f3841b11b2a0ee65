"""The actors of this room's tests, with keys of their own each session."""

import pytest
from log_stage import LOG_NAME, WITNESS_NAME, log_signer, witness_signer

from loyal.protocol import NoteSigner


@pytest.fixture(scope="session")
def log() -> NoteSigner:
    """The log that the tests sign for."""
    return log_signer(LOG_NAME)


@pytest.fixture(scope="session")
def witness_key() -> NoteSigner:
    """The witness that the tests cosign with."""
    return witness_signer(WITNESS_NAME)
