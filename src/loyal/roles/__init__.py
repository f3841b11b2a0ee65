"""The actors of the protocol ("Training AI to be Loyal", Figures 1 to 3), torch-free.

The platform decides, commits, and only then answers:

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

A simulated community, in which hosts, provers, verifiers and adversaries drive the real rules, and
the plan of how many keys a license needs:

    from loyal.roles import Cheating, PlanRequest, Scenario
    from loyal.roles.planning import plan
    from loyal.roles.simulation import simulate

    outcome = simulate(Scenario(seed=7), interactions=500)
    assert outcome.innocent_slashed == 0 and outcome.broken == ()

    cheating = Cheating(skip_share=0.5, survival=0.9)
    assert plan(PlanRequest(cheating, inferences=100_000)).keys == 62

A host asks the platform for a permission before it answers (`Host.ask`, `receive`, `answer`), and
`Batcher` gives many queries one call.

No database, no HTTP, no clock here: a store is whatever keeps `loyal.roles.Store`'s promises, and
`now` is an argument. `PermissionQueue` lets many concurrent requests share one durable step. Nouns
are exported here; `simulation` and `planning` are verbs.
"""

from loyal.roles.batcher import Batcher, BatchLimits
from loyal.roles.host import (
    Asked,
    Host,
    KeptReceipt,
    PermissionSource,
    ReceiptStore,
    SignedLicense,
)
from loyal.roles.planning import Cheating, Plan, PlanRequest
from loyal.roles.platform import Outcome, Platform, PlatformKeys, Taken
from loyal.roles.queue import PermissionQueue, QueueSettings
from loyal.roles.scenario import Detection, Scenario
from loyal.roles.storage import Change, GivenReceipt, Heads, Name, Store

__all__ = [
    "Asked",
    "BatchLimits",
    "Batcher",
    "Change",
    "Cheating",
    "Detection",
    "GivenReceipt",
    "Heads",
    "Host",
    "KeptReceipt",
    "Name",
    "Outcome",
    "PermissionQueue",
    "PermissionSource",
    "Plan",
    "PlanRequest",
    "Platform",
    "PlatformKeys",
    "QueueSettings",
    "ReceiptStore",
    "Scenario",
    "SignedLicense",
    "Store",
    "Taken",
]
