"""The one exception tree of `loyal`.

    LoyalError                 exit code 1: refused, or not proven
     ├─ UsageError             exit code 2: a bad option, a bad path, a count of 0
     │   ├─ ConfigError        exit code 2: a recipe or a `--set` that does not fit
     │   └─ ControlError       exit code 2: a control function that cannot be taken as it is
     ├─ ModelError             exit code 2: not a causal language model, no chat template, offline
     ├─ VaultError
     │   ├─ WrongPassphrase
     │   └─ DamagedVault
     ├─ EndpointError          a server that answers, but not with what was asked
     │   └─ Unreachable        one that is silent, not there, or fails by its own word (HTTP 5xx)
     ├─ ProofError             a proof that does not hold; `reason` says which part, in a word
     ├─ EncodingError          bytes that are not the one canonical form of a record
     ├─ SignatureError
     ├─ ProtocolError          a command that a rule of the protocol forbids; `rule` names it
     │   └─ PermissionRefused  a receipt that does not hold, or a query that gets none
     ├─ LedgerError            a log's notes, checkpoints and quorums; `reason` says what, in a word
     ├─ StorageError           a full disk, a folder that may not be written, a lost database
     │   └─ Overloaded         more is asked for at once than can be made durable; ask again
     ├─ JudgeError             a judge that cannot be believed: blind, or answering prose
     └─ TrainingError

Every error is one line and carries a hint: the next step to take. Neither ever holds a key, a
response, a passphrase or a seed. Input from outside that is malformed becomes one of these, never
a leaking ValueError. What is left out on purpose: printing, which is the command line's.
"""

from typing import ClassVar


class LoyalError(Exception):
    """`str(error)` is the message in one line; `hint` is the next step, in one line."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with: 1 for refused or not proven, 2 for a wrong call."""

    hint: str
    """The next step, a sentence for the person who reads it."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(_one_line(message))
        self.hint = _one_line(hint)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by value, so that an error crosses a process boundary whole."""
        return _restore, (type(self), self.args, dict(self.__dict__))


class UsageError(LoyalError):
    """The call cannot be meant: a bad option, a path that is not there, a count of 0."""

    exit_code: ClassVar[int] = 2


class ConfigError(UsageError):
    """A recipe or an override has an unknown key, a wrong type or a value out of range."""


class ControlError(UsageError):
    """A control function that cannot be used: malformed, failing, undetermined, or overlapping."""


class ModelError(LoyalError):
    """A model or tokenizer cannot serve: wrong kind, no chat template, or not to be had."""

    exit_code: ClassVar[int] = 2


class VaultError(LoyalError):
    """A vault refuses what was asked of it."""


class WrongPassphrase(VaultError):
    """The vault is well formed, but neither passphrase nor identity opens it."""


class DamagedVault(VaultError):
    """The vault's bytes were changed or cut."""


class EndpointError(LoyalError):
    """A model server cannot be reached, or its answer is not what the protocol says."""


class Unreachable(EndpointError):
    """The platform cannot be reached, is silent or fails (HTTP 5xx): an outage, not a refusal."""


class ProofError(LoyalError):
    """A proof does not hold."""

    reason: str
    """Which part failed, in a word: inclusion, consistency, fork, beacon, pick, root, malformed,
    keys, missing, unmarked."""

    def __init__(self, message: str, *, hint: str, reason: str) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class EncodingError(LoyalError):
    """A value has no canonical form, or bytes are not in it."""


class SignatureError(LoyalError):
    """A signature, a public key or a seed is malformed, or the signature does not hold."""


class ProtocolError(LoyalError):
    """A command is against a rule of the protocol (docs/protocol.md); nothing was changed."""

    rule: str
    """The rule's number, such as C4; empty where the form itself is wrong."""

    def __init__(self, message: str, *, hint: str, rule: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


class PermissionRefused(ProtocolError):
    """A receipt does not show a permission, or none may be given."""


class LedgerError(LoyalError):
    """A note, checkpoint, key or request of a log is malformed, or not signed as it must be."""

    reason: str
    """What is wrong, in a word: malformed, origin, signature, size, root, quorum or rules."""

    def __init__(self, message: str, *, hint: str, reason: str) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class StorageError(LoyalError):
    """The disk or the database refused: full, not writable, or not there."""


class Overloaded(StorageError):
    """More waits to be made durable than the queue takes; nothing was done for this one."""


class JudgeError(LoyalError):
    """A judge cannot be believed: it tells nothing apart, or gives no readable answer."""


class TrainingError(LoyalError):
    """Training cannot go on, or did not reach what was asked."""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _restore(
    kind: type[LoyalError], args: tuple[object, ...], state: dict[str, object]
) -> LoyalError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
