"""The community of tests/protocol/parties.py, acting through a platform instead of by itself."""

from __future__ import annotations

from parties import DAY, PROVERS, VERIFIERS, Stage
from shelf import KEYS, Shelf

from loyal.protocol.commands import SignedCommand, sign_command
from loyal.protocol.permits import PermissionRequest
from loyal.protocol.rules import Command
from loyal.roles import Platform


def on(platform: Platform) -> Stage:
    """A stage whose commands go to the platform."""
    stage = Stage()
    stage.state = platform.state
    stage.do = lambda command: list(platform.submit(signed(stage, command), stage.now))  # type: ignore[method-assign]
    return stage


def signed(stage: Stage, command: Command) -> SignedCommand:
    """The command under its author's signature, with the next number."""
    key = next(one for one in stage.keys.values() if one.public.data == command.author)
    number = stage.state.numbers.get(command.author, -1) + 1
    return sign_command(key, stage.id("platform"), command, number)


def licensed(platform: Platform, **terms: object) -> tuple[Stage, bytes]:
    """Verifiers, provers, a model, a delivered license."""
    stage = on(platform)
    stage.enroll("verifier", *VERIFIERS)
    stage.enroll("prover", *PROVERS)
    stage.fund("owner", "member", "host")
    license = stage.sign(stage.terms(stage.publish("owner", "the model"), **terms))
    stage.deliver(license)
    return stage, license


def opened(**terms: object) -> tuple[Shelf, Platform, Stage, bytes]:
    """A shelf, and all that stands on it."""
    shelf = Shelf()
    platform = Platform(shelf, KEYS)
    stage, license = licensed(platform, **terms)
    shelf.commits.clear()
    return shelf, platform, stage, license


def request(
    stage: Stage, license: bytes, number: int, body: int | None = None, host: str = "host"
) -> PermissionRequest:
    """The query of that number; `body` makes it another one under the same key."""
    message = (number if body is None else body).to_bytes(32, "big")
    return PermissionRequest(stage.id(host), license, (message,), number.to_bytes(16, "big"))


MONTH = 30 * DAY
