"""Whether the platform is worth asking: so that in an outage no user waits for its silence.

After a platform that could not be reached, queries do not ask it for a while; then one of them
does, alone, and the others do not wait for what it finds. Left out: what they do in place of asking
(`gateway`).
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Outage:
    """Of one platform. Belongs to one event loop."""

    def __init__(
        self, pause_seconds: float, timer: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        """`timer` gives seconds that never run back."""
        self._pause, self._timer = pause_seconds, timer
        self._until: float | None = None
        self._probing = False

    def asks(self) -> bool:
        """Whether this query asks the platform. Whoever is told so says how it went: `began`,
        `over`, or `unknown`."""
        if self._until is None:
            return True
        if self._probing or self._timer() < self._until:
            return False
        self._probing = True
        return True

    def began(self) -> None:
        """The platform could not be reached."""
        self._until, self._probing = self._timer() + self._pause, False

    def over(self) -> None:
        """The platform answered, a refusal too."""
        self._until, self._probing = None, False

    def unknown(self) -> None:
        """Who asked went away before an answer: the next one asks."""
        self._probing = False
