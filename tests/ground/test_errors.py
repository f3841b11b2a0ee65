"""The exception tree: one line, a hint, an exit code, and safe passage between processes."""

import pickle

import pytest

from loyal import errors
from loyal.errors import ConfigError, LoyalError, ProofError, UsageError, VaultError

TREE = [value for value in vars(errors).values() if isinstance(value, type)]


def test_every_class_is_in_the_tree_and_in_its_drawing() -> None:
    for kind in TREE:
        assert issubclass(kind, LoyalError)
        assert f"{kind.__name__} " in f"{errors.__doc__} ".replace("\n", " ")


def test_exit_codes() -> None:
    wrong_call = {kind.__name__ for kind in TREE if kind.exit_code == 2}
    assert wrong_call == {"UsageError", "ConfigError", "ControlError", "ModelError"}
    assert {kind.exit_code for kind in TREE} == {1, 2}


def test_message_and_hint_are_one_line() -> None:
    error = UsageError("first\nsecond   third", hint="do\nthis")
    assert (str(error), error.hint) == ("first second third", "do this")


def test_a_hint_is_required() -> None:
    with pytest.raises(TypeError):
        UsageError("no next step")  # type: ignore[call-arg]


def test_kinship() -> None:
    assert issubclass(ConfigError, UsageError)
    assert issubclass(errors.WrongPassphrase, VaultError)
    assert not issubclass(ProofError, UsageError)


def test_pickle_keeps_everything() -> None:
    error = pickle.loads(pickle.dumps(ProofError("m", hint="h", reason="beacon")))
    assert type(error) is ProofError
    assert (str(error), error.hint, error.reason) == ("m", "h", "beacon")
