"""The platform: it takes commands and requests, and nothing that it says is not durable before.

It owns the state, the key that signs permissions and the log's note signer, and it writes through a
`Store`. One step is: decide (`protocol`), sign, commit, and only then remember and answer. So an
error leaves the memory as it was, and a crash leaves the log as it was or with the whole step.

At start it believes nothing that it reads:

1. the log is as long as its newest checkpoint says, and no shorter than any other one shown;
2. those checkpoints are signed with the log's key;
3. the entries have the roots that were signed, at every one of those sizes;
4. they are events that fold into a state.

So a log that lost its end, or was changed, is refused and never signed again at a smaller size.
Several platforms may share a store: who comes second is told so by `commit`, reads on, and decides
anew. Left out on purpose: transport, the clock (`now`), witnesses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from loyal.errors import LedgerError, PermissionRefused, ProtocolError, StorageError
from loyal.merkle import EMPTY_ROOT, Frontier
from loyal.protocol import Checkpoint, Command, Event, Moment, NoteSigner, Parameters, State
from loyal.protocol import checkpoint as checkpoints
from loyal.protocol.commands import SignedCommand, enact, sign_command
from loyal.protocol.events import decode_event, encode_event
from loyal.protocol.note import SignedNote
from loyal.protocol.permission import MOST_LEAVES
from loyal.protocol.permits import Issued, PermissionRequest, issue
from loyal.roles.storage import Change, GivenReceipt, Heads, Name, Store
from loyal.signing import SigningKey

T = TypeVar("T")

MOST_ATTEMPTS = 100
"""How often a step is decided anew because another writer was first. Each attempt that loses means
that another one's has won, so this is only reached where a hundred others came in between."""

_HINT_LOST = (
    "stop: entries that were signed are gone; bring back the newest copy of the database with its "
    "write-ahead log, and check it against a witness's checkpoint"
)

Outcome = bytes | ProtocolError
"""What a request comes to: the canonical bytes of its receipt, or why there is none."""


@dataclass(frozen=True)
class Taken:
    """A command that stands in the log."""

    index: int
    """The place of the signed command; what followed from it stands right after."""
    events: tuple[Event, ...]
    """What followed."""


@dataclass(frozen=True)
class PlatformKeys:
    """What the platform signs with."""

    identity: SigningKey
    """Permissions and licenses; its public half is the platform's name in the state."""
    log: NoteSigner
    """The log's checkpoints; its name is the log's origin."""


class Platform:
    """The actor. Any thread may call it; steps are taken one after another."""

    def __init__(
        self,
        store: Store,
        keys: PlatformKeys,
        parameters: Parameters | None = None,
        seen: Iterable[SignedNote] = (),
    ) -> None:
        """Read the log and check it. `seen`: checkpoints that others kept, such as a witness's.

        Raises LedgerError (reason size, root, malformed, signature or origin) for a log that is not
        what was signed, StorageError.
        """
        self._store, self._keys = store, keys
        self._state = State(keys.identity.public.data, parameters or Parameters())
        self._frontier = Frontier()
        self._root = EMPTY_ROOT
        self._note: SignedNote | None = None
        self._step = threading.Lock()
        with self._step:
            self._read_on([self._opened(one) for one in seen])

    @property
    def state(self) -> State:
        """The state, to be read; it changes with every step."""
        return self._state

    @property
    def checkpoint(self) -> SignedNote | None:
        """The newest signed checkpoint, durable; None for an empty log."""
        return self._note

    def read(self, view: Callable[[State], T]) -> T:
        """What `view` says of the state, between two steps. It must be quick: steps wait for it."""
        with self._step:
            return view(self._state)

    def submit(self, command: Command | SignedCommand, now: int) -> tuple[Event, ...]:
        """Do what a command asks for; gives the events that followed from it, durable.

        A bare command is the platform's own, which it signs itself. Raises ProtocolError with the
        rule that forbids it, or StorageError; the state is then as before.
        """
        return self.take(command, now).events

    def take(self, command: Command | SignedCommand, now: int) -> Taken:
        """The same as `submit`, with the place in the log."""
        with self._step:
            for _ in range(MOST_ATTEMPTS):
                signed = command if isinstance(command, SignedCommand) else self._sign(command)
                try:
                    events = tuple(enact(self._state, signed, self._moment(now)))
                except ProtocolError:
                    if self._is_behind():  # what another writer wrote may allow it
                        self._read_on()
                        continue
                    raise
                index = self._frontier.size
                if self._commit(events, ()):
                    return Taken(index, events[1:])
                self._read_on()
        raise _overtaken()

    def permit(self, requests: Sequence[PermissionRequest], now: int) -> tuple[Outcome, ...]:
        """Permissions for many queries in one durable step, an outcome for each, in order.

        A request that was permitted before gets the same receipt, byte for byte. Raises
        PermissionRefused for more than MOST_LEAVES requests and StorageError; none is permitted
        then, as far as anybody can know before asking again.
        """
        if len(requests) > MOST_LEAVES:
            raise PermissionRefused(
                f"a batch holds at most {MOST_LEAVES} requests", hint="send fewer at once"
            )
        names = [(one.license, one.idempotency_key) for one in requests]
        with self._step:
            for _ in range(MOST_ATTEMPTS):
                before = {(one[0], one[1]): one for one in self._store.find(names)}
                bodies = {name: one.body for name, one in before.items()}
                moment = self._moment(now)
                issued = issue(self._state, requests, bodies, moment, self._keys.identity)
                if issued.refusals and self._is_behind():
                    self._read_on()
                    continue
                given = {name: one.receipt for name, one in before.items()}
                fresh = _receipts(requests, issued)
                if not fresh or self._commit(issued.events, fresh):
                    given.update(((one.license, one.idempotency_key), one.receipt) for one in fresh)
                    return _outcomes(names, issued, given)
                self._read_on()
        raise _overtaken()

    def catch_up(self) -> None:
        """Read what other writers wrote, checked. LedgerError, StorageError."""
        with self._step:
            if self._is_behind():
                self._read_on()

    def _is_behind(self) -> bool:
        return self._store.heads().length != self._frontier.size

    def _sign(self, command: Command) -> SignedCommand:
        identity = self._keys.identity
        number = self._state.numbers.get(identity.public.data, -1) + 1
        return sign_command(identity, identity.public.data, command, number)

    def _moment(self, now: int) -> Moment:
        """Here; a clock that was set back waits for the log's (K3)."""
        return Moment(max(now, self._state.seconds), self._frontier.size, self._root)

    def _commit(self, events: Sequence[Event], receipts: tuple[GivenReceipt, ...]) -> bool:
        """Make events durable, and only then remember them. False: another writer was first.

        The checkpoint is signed before it is known whether it will stand, and leaves this object
        only if it does: two that are signed for one size would be a fork.
        """
        entries = tuple(map(encode_event, events))
        if not entries:
            return True
        frontier = self._frontier.extend(entries)
        head = Checkpoint(self._keys.log.name, frontier.size, frontier.root())
        note = checkpoints.sign_checkpoint(head, self._keys.log).note
        change = Change(self._frontier.size, entries, receipts, note.to_bytes())
        if not self._store.commit(change):
            return False
        for event in events:
            self._state.record(self._state.length, event)
        self._frontier, self._root, self._note = frontier, head.root, note
        return True

    def _read_on(self, seen: Iterable[Checkpoint] = ()) -> None:
        """Take in what the log has beyond this state, checked; obligations 1 to 4."""
        heads = self._store.heads()
        note = SignedNote.from_bytes(heads.stored) if heads.stored is not None else None
        signed = [*seen, *([self._opened(note)] if note else [])]  # 2
        if heads.outside is not None:
            signed.append(self._opened(SignedNote.from_bytes(heads.outside)))
        self._require_whole(heads, note, signed)  # 1
        expected = {one.size: one.root for one in signed}
        if any(expected[one.size] != one.root for one in signed):
            raise _changed(max(expected))
        for data in self._store.entries(self._frontier.size, heads.length):
            self._fold(data)  # 4
            self._frontier = self._frontier.append(data)
            size = self._frontier.size
            if size in expected and self._frontier.root() != expected[size]:  # 3
                raise _changed(size)
        self._root, self._note = self._frontier.root(), note

    def _fold(self, data: bytes) -> None:
        try:
            self._state.record(self._state.length, decode_event(data))
        except (ProtocolError, LookupError, AttributeError) as error:
            # An event about what is not there makes a fold fail in any of these ways.
            raise LedgerError(
                f"entry {self._state.length} of the log is not one that the rules wrote",
                hint="stop: the database was changed; bring back a copy that fits the checkpoint",
                reason="malformed",
            ) from error

    def _require_whole(
        self, heads: Heads, note: SignedNote | None, signed: Sequence[Checkpoint]
    ) -> None:
        """Obligation 1; and where two platforms share a store, it never shrinks under one."""
        newest = Checkpoint.from_text(note.text).size if note else 0
        least = max([self._frontier.size, *(one.size for one in signed)])
        if heads.length < least:
            raise LedgerError(
                f"the log has {heads.length} entries, but {least} were signed",
                hint=_HINT_LOST,
                reason="size",
            )
        if heads.length != newest:
            raise LedgerError(
                f"the log has {heads.length} entries, but its newest checkpoint is of {newest}",
                hint=_HINT_LOST,
                reason="size",
            )

    def _opened(self, note: SignedNote) -> Checkpoint:
        return checkpoints.open_checkpoint(note, self._keys.log.verifier).checkpoint


def _receipts(requests: Sequence[PermissionRequest], issued: Issued) -> tuple[GivenReceipt, ...]:
    """What is new, for the store, in the order of the batch."""
    if issued.batch is None:
        return ()
    place = issued.batch.header.log_index
    asked = [requests[number] for number, at in enumerate(issued.positions) if at is not None]
    return tuple(
        GivenReceipt(one.license, one.idempotency_key, one.body, place, receipt)
        for one, receipt in zip(asked, issued.batch.receipts(), strict=True)
    )


def _outcomes(
    names: Sequence[Name], issued: Issued, given: dict[Name, bytes]
) -> tuple[Outcome, ...]:
    refusals = issued.refusals
    return tuple(
        refusals[number] if number in refusals else given[name] for number, name in enumerate(names)
    )


def _changed(size: int) -> LedgerError:
    return LedgerError(
        f"the log's first {size} entries are not the ones that were signed",
        hint="stop: the database was changed; bring back a copy that fits the checkpoint",
        reason="root",
    )


def _overtaken() -> StorageError:
    return StorageError(
        f"{MOST_ATTEMPTS} other writers were first", hint="run fewer platforms on one database"
    )
