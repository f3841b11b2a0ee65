"""The actors of the paper's Figures 1 to 3, one a file; no HTTP, no disk, no clock of their own.

A host asks the platform for a permission before it answers, and signs what it answers:

    from loyal.roles import Host

    host = Host(key, terms, platform)
    request, salts = host.ask(["What is a loyal model?"])
    receipt = host.receive(data, request)        # what the platform sent for the request
    signed = host.answer(["What is a loyal model?"], reply, receipt, salts)

`Batcher` gives many queries one call to the platform. Left out: transport and storage (app).
"""

from loyal.roles.batcher import Batcher, BatchLimits
from loyal.roles.host import (
    Asked,
    Host,
    Kept,
    PermissionSource,
    ReceiptStore,
    SignedLicense,
)

__all__ = [
    "Asked",
    "BatchLimits",
    "Batcher",
    "Host",
    "Kept",
    "PermissionSource",
    "ReceiptStore",
    "SignedLicense",
]
