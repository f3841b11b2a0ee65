"""Collusion codes: which host's copy carries which fingerprint of a tracing set, out of a secret.

Row h of a code says what host h gets: where bit i is 1, its copy carries fingerprint i. Bit i is 1
with the secret probability p_i, independently for every host. Hosts that mix their copies cannot
hide all of their bits, and `trace` names them from what the mixed model still answers.

How a code comes out of its 32-byte secret, for whoever writes it anew (no library's generator):

    stream(what, n) = SHAKE256(HMAC-SHA256(secret, frame("loyal tracing code v1") || CBOR(what)))
    biases, arcsine  pairs x, y of 4 bytes each from stream(["arcsine", "biases"]), little-endian,
                     divided by 2^8; a pair counts if 0 < x^2 + y^2 < 2^48 and, for
                     T = x^2 2^16 // (x^2 + y^2), CUT <= T <= 2^16 - CUT; T_i is the i-th such T
    biases, additive T_i = ADDITIVE
    row of host h    2 bytes u_i each from stream([scheme, "row", h]), little-endian; bit i is
                     u_i < T_i

So p_i = T_i / 2^16 exactly, rows come one at a time, and neither depends on how many hosts or
fingerprints there are: a longer code begins with the shorter one. Frame and CBOR: `encoding`.

The secret of a set's code is HMAC-SHA256(owner secret, frame("loyal tracing secret v1") ||
CBOR([root, beacon])). The root fixes the owner secret, since every leaf's tag is an HMAC under it,
and the beacon follows the root: so nobody, the owner included, chose the code to fit a case.

Left out on purpose: naming colluders (`trace`), and who is host number h, which the owner keeps.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from loyal import encoding
from loyal.errors import UsageError
from loyal.fingerprints.fingerprint import FingerprintSet

Scheme = Literal["arcsine", "additive"]
"""arcsine: Tardos (J. ACM 2008), biases by the arcsine law with a cut-off. additive: one bias for
all (Scalable Fingerprinting, arXiv 2502.07760, Definition 5.1), for comparison."""

Bits = npt.NDArray[np.bool_]

DEFAULT_HOSTS = 2048
MOST_HOSTS = 1 << 20
MOST_FINGERPRINTS = 1 << 16
"""Scores of up to so many stay below 2^24, where float32 counts exactly."""

ONE = 1 << 16
"""Biases are counted in 1/ONE."""
CUT = 656
"""About 0.01: rarer bits are nearly never given out, and say little when they are."""
ADDITIVE = 15_925
"""0.243, what the paper's figure for three colluders uses."""

_PURPOSE = "loyal tracing code v1"
_SECRET_PURPOSE = "loyal tracing secret v1"
_COMMITMENT_PURPOSE = "loyal tracing commitment v1"


@dataclass(frozen=True, repr=False)
class TracingCode:
    """A code for `hosts` hosts over `length` fingerprints. No repr or error shows a bit of it."""

    secret: bytes
    """32 bytes, uniformly random or derived from such (`code_of`); never from a seed."""
    hosts: int
    """How many host numbers there are; 1 to MOST_HOSTS."""
    length: int
    """Fingerprints; 1 to MOST_FINGERPRINTS."""
    scheme: Scheme = "arcsine"

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != 32:
            raise UsageError("a code's secret is 32 bytes", hint="take it from secrets, or code_of")
        if not 1 <= self.hosts <= MOST_HOSTS:
            raise UsageError("a code is for 1 host or more", hint=f"at most {MOST_HOSTS}")
        if not 1 <= self.length <= MOST_FINGERPRINTS:
            raise UsageError(
                "a code is over 1 fingerprint or more", hint=f"at most {MOST_FINGERPRINTS}"
            )
        if self.scheme not in get_args(Scheme):
            raise UsageError("a code is arcsine or additive", hint="choose one of the two")

    @cached_property
    def biases(self) -> npt.NDArray[np.uint16]:
        """T, shape (length,): bit i is 1 with probability T[i] / ONE. As secret as the code."""
        if self.scheme == "additive":
            return np.full(self.length, ADDITIVE, np.uint16)
        pairs = 2 * self.length + 64
        while True:
            found = _arcsine(self._stream(["arcsine", "biases"], 8 * pairs))
            if len(found) >= self.length:
                return found[: self.length]
            pairs *= 2

    def row(self, host: int) -> Bits:
        """What host number `host` (0 to hosts - 1) carries, shape (length,). Else UsageError."""
        if not 0 <= host < self.hosts:
            raise UsageError(
                "the code has no such host", hint=f"host numbers go from 0 to {self.hosts - 1}"
            )
        drawn = self._stream([self.scheme, "row", host], 2 * self.length)
        return np.asarray(np.frombuffer(drawn, "<u2") < self.biases)

    def matrix(self, hosts: range) -> Bits:
        """Rows of several hosts, shape (len(hosts), length). UsageError as for `row`."""
        rows = np.empty((len(hosts), self.length), np.bool_)
        for place, host in enumerate(hosts):
            rows[place] = self.row(host)
        return rows

    @property
    def commitment(self) -> bytes:
        """32 bytes that fix the whole code and tell nothing of it: publish them with the root."""
        fixed = [self.scheme, self.hosts, self.length, self.secret]
        return encoding.digest(fixed, _COMMITMENT_PURPOSE)

    def _stream(self, what: list[str | int], size: int) -> bytes:
        message = encoding.frame(_PURPOSE) + encoding.encode(what)
        return hashlib.shake_256(hmac.digest(self.secret, message, "sha256")).digest(size)

    def __repr__(self) -> str:
        return f"TracingCode({self.hosts} hosts, {self.length} fingerprints, {self.scheme})"


def code_of(fingerprints: FingerprintSet) -> TracingCode:
    """The code of a tracing set, as its settings `tracing_hosts` and `tracing_scheme` say.

    UsageError unless it is a whole, drawn tracing set: see the module for why the draw comes first.
    """
    if fingerprints.kind != "tracing":
        raise UsageError(
            f"a {fingerprints.kind} set has no code and names no colluders",
            hint="generate a set with --kind tracing",
        )
    if fingerprints.beacon is None:
        raise UsageError(
            "the set is not drawn yet, and its code comes from the beacon too",
            hint="run 'loyal fingerprint commit' with --beacon HEX",
        )
    if not fingerprints.owner_secret:
        raise UsageError(
            "this is one host's part of a tracing set", hint="open the vault with the whole set"
        )
    message = encoding.frame(_SECRET_PURPOSE) + encoding.encode(
        [fingerprints.root, fingerprints.beacon.value]
    )
    return TracingCode(
        secret=hmac.digest(fingerprints.owner_secret, message, "sha256"),
        hosts=int(fingerprints.settings.get("tracing_hosts", DEFAULT_HOSTS)),
        length=len(fingerprints),
        scheme=fingerprints.settings.get("tracing_scheme", "arcsine"),  # type: ignore[arg-type]
    )


def host_set(fingerprints: FingerprintSet, host: int) -> FingerprintSet:
    """What goes into the copy of host number `host`: its fingerprints of a tracing set, in order.

    The part holds no owner secret, hence no code; its settings name the host (`host_number`) and
    the root that it came from (`family_root`, hex). UsageError as for `code_of` and
    `TracingCode.row`, and where the host's part is empty.
    """
    carried = code_of(fingerprints).row(host)
    chosen = tuple(one for one, bit in zip(fingerprints.fingerprints, carried, strict=True) if bit)
    if not chosen:
        raise UsageError(
            "this host's part of the set is empty", hint="generate more fingerprints: 512 or so"
        )
    return replace(
        fingerprints,
        fingerprints=chosen,
        owner_secret=b"",
        settings={
            **fingerprints.settings,
            "host_number": host,
            "family_root": fingerprints.root.hex(),
        },
    )


def _arcsine(stream: bytes) -> npt.NDArray[np.uint16]:
    """Every bias that the stream's pairs give, shape (up to len(stream) / 8,).

    A point (x, y) that is uniform in a quarter disc has a uniform angle, so x^2 / (x^2 + y^2)
    follows the arcsine law: whole numbers alone, the same on every machine.
    """
    points = np.frombuffer(stream, "<u4").reshape(-1, 2).astype(np.uint64) >> np.uint64(8)
    squares = points * points  # (pairs, 2), below 2^48
    total = squares.sum(axis=1)
    inside = (total > 0) & (total < 1 << 48)
    biases = (squares[inside, 0] << np.uint64(16)) // total[inside]
    return biases[(biases >= CUT) & (biases <= ONE - CUT)].astype(np.uint16)
