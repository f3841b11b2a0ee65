"""What the platform counts, for Prometheus. Nothing here tells one asker from another.

It is told at an address of its own (`--metrics-listen`), never at the public one. Left out: who may
reach that address, which is the network's to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)

from loyal.app.listening import Address, cannot_listen, url_of

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one platform; its registry is its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "loyal_http_requests", "Requests answered.", ["route", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "loyal_http_seconds", "From a request to its answer.", ["route"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._permissions = Counter(
            "loyal_permissions", "Queries by what came of them: given, or the rule.", ["outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._commands = Counter(
            "loyal_commands", "Commands by kind: taken, or the rule.", ["kind", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._counted: dict[tuple[str, ...], Counter] = {}
        self._timed: dict[str, Histogram] = {}
        self.length = Gauge("loyal_log_length", "Entries in the log.", registry=self._registry)
        self.keys_left = Gauge(
            "loyal_keys_left", "Keys of the vault that were not drawn.", registry=self._registry
        )

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is a template, never a path."""
        self._count(self._requests, route, method, str(status)).inc()
        if route not in self._timed:
            self._timed[route] = self._seconds.labels(route)
        self._timed[route].observe(seconds)

    def permitted(self, outcome: str, count: int) -> None:
        """Queries got a permission (`given`), or a rule's number."""
        self._count(self._permissions, outcome).inc(count)

    def commanded(self, kind: str, outcome: str) -> None:
        """A command was `taken`, or a rule's number."""
        self._commands.labels(kind, outcome).inc()

    def _count(self, counter: Counter, *labels: str) -> Counter:
        """The counter of these labels, found by one lookup: labels come from few values, and
        prometheus_client's own way to it takes as long as the rest of an answer's bookkeeping."""
        if labels not in self._counted:
            self._counted[labels] = counter.labels(*labels)
        return self._counted[labels]

    def text(self) -> bytes:
        """Prometheus's text form."""
        return generate_latest(self._registry)

    @contextlib.contextmanager
    def told_at(self, address: Address) -> Iterator[str]:
        """Answer Prometheus there, in a thread of its own, for as long as it is open; gives the
        URL. UsageError where it may not listen."""
        try:
            server, thread = start_http_server(address.port, address.host, self._registry)
        except (OSError, UnicodeError) as error:
            raise cannot_listen(address, error, "--metrics-listen") from None
        try:
            yield f"{url_of(server.socket)}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
