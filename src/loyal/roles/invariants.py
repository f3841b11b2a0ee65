"""What must hold in a simulated community whatever anybody tried; each break is a sentence.

`running` is cheap and looked at often; `closing` reads the whole log once more, from its bytes.
"""

from __future__ import annotations

from collections import Counter

from loyal.protocol import State
from loyal.protocol import events as e
from loyal.roles.scenario import INNOCENT
from loyal.roles.world import World


def running(world: World) -> list[str]:
    """1. Money adds up to 0. 2. No account is below 0. 3. No innocent host is convicted or slashed.
    4. No honest party was refused anything, nothing was let through that never may be, no claim
    against an honest host was accepted, and the honest verifiers decided."""
    found = []
    balances = world.state.balances
    if sum(balances.values()):  # 1
        found.append(f"money adds up to {sum(balances.values())}")
    below = [name for name, held in balances.items() if held < 0 and name != e.OUTSIDE]
    found += [f"{name.split(':')[0]} holds {balances[name]}" for name in below]  # 2
    for deal in world.deals:  # 3
        license = world.state.licenses[deal.license]
        if deal.conduct in INNOCENT and (license.conviction is not None or license.settled):
            word = "slashed" if license.settled else "convicted"
            found.append(f"{word}: a host that is {deal.conduct}")
    return found + list(dict.fromkeys(world.tally.surprises))[:5]  # 4


def closing(world: World) -> list[str]:
    """5. A key of a license is spent once. 6. Sequence numbers have no gap. 7. A replay of the
    log's bytes is the state. 8. Every account is empty, but for what was burned."""
    found = []
    keys = Counter((deal.license, key.strip()) for deal, key, _ in world.claimed.values())
    if any(count > 1 for count in keys.values()):  # 5
        found.append("a key was spent twice")
    following: Counter[bytes] = Counter()
    for event in world.log:  # 6
        for license, first, count in event.usage if isinstance(event, e.BatchIssued) else ():
            if first != following[license]:
                found.append(f"a license goes on at {first}, not at {following[license]}")
            following[license] += count
    copied = map(e.decode_event, world.entries)
    if State(world.state.platform, world.scenario.parameters).replay(copied) != world.state:  # 7
        found.append("a replay of the log is another state")
    held = [
        f"{amount} left in {name.rsplit(':', 1)[0][:40]}"
        for name, amount in world.state.balances.items()
        if amount and name not in (e.OUTSIDE, e.BURNED)
    ]
    return found + held[:3]  # 8
