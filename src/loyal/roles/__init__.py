"""The actors of the paper's Figures 1 to 3, one a file; so far the platform.

    from loyal.protocol import NoteSigner
    from loyal.protocol.stake import Deposit
    from loyal.roles import Change, Heads, Platform, PlatformKeys
    from loyal.signing import SigningKey

    class Shelf:                                # a Store in memory; the durable one is in loyal.app
        def __init__(self):
            self.log, self.note = [], None

        def heads(self):
            return Heads(len(self.log), self.note, None)

        def entries(self, start, stop):
            return iter(self.log[start:stop])

        def find(self, names):
            return []

        def commit(self, change):
            self.log += change.entries
            self.note = change.note
            return True

    identity = SigningKey.generate()
    keys = PlatformKeys(identity, NoteSigner("example.com/log", SigningKey.generate()))
    shelf = Shelf()
    platform = Platform(shelf, keys)
    platform.submit(Deposit(identity.public.data, b"h" * 32, 5_000_000), now=1_800_000_000)
    assert Platform(shelf, keys).state == platform.state        # the log is all there is

No torch, no database, no clock here: a store is whatever keeps `loyal.roles.Store`'s promises, and
`now` is an argument. `PermissionQueue` lets many concurrent requests share one durable step.
"""

from loyal.roles.platform import Outcome, Platform, PlatformKeys
from loyal.roles.queue import PermissionQueue, QueueSettings
from loyal.roles.storage import Change, Heads, Kept, Name, Store

__all__ = [
    "Change",
    "Heads",
    "Kept",
    "Name",
    "Outcome",
    "PermissionQueue",
    "Platform",
    "PlatformKeys",
    "QueueSettings",
    "Store",
]
