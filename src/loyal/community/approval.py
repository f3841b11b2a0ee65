"""Signatures under a constitution: who of the community approved this very text.

    from loyal.community import Approvals, constitution_file
    from loyal.signing import SigningKey

    text, member = constitution_file.bundled("public-library"), SigningKey.generate()
    approvals = Approvals().signed_by(member, text)
    assert approvals.verify(text, [member.public]) == (member.public,)

A signature is over name, version and digest, so it is small and says what was approved. Left out on
purpose: whose signatures are enough (stake and quorums are the campaign's), and key files.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from loyal import encoding, signing
from loyal.community.constitution import Constitution
from loyal.encoding import Value as Plain
from loyal.errors import EncodingError, SignatureError
from loyal.signing import PublicKey, Signed, SigningKey

PURPOSE = "loyal constitution approval 1"
MOST_SIGNERS = 10_000
_FORM = "loyal constitution approvals 1"


@dataclass(frozen=True)
class Approvals:
    """Signatures by several members under one constitution; unverified until `verify`."""

    signatures: tuple[Signed[Plain], ...] = ()
    """By public key, each signer once."""

    def signed_by(self, key: SigningKey, constitution: Constitution) -> Approvals:
        """With this key's signature too; one that it gave before is replaced."""
        return Approvals((signing.sign(key, _record(constitution), PURPOSE),)).joined(self)

    def joined(self, other: Approvals) -> Approvals:
        """The signatures of both; of a signer in both, the one that stands here."""
        every = {one.public.data: one for one in (*other.signatures, *self.signatures)}
        return Approvals(tuple(every[public] for public in sorted(every)))

    def verify(
        self, constitution: Constitution, wanted: Collection[PublicKey] = ()
    ) -> tuple[PublicKey, ...]:
        """Who signed, if 1. somebody did, 2. each signature holds for this purpose, 3. each is
        under this name, version and digest, and 4. all that are wanted signed.

        SignatureError says which part fails; whether the signers are the right ones, `wanted` or
        the caller says.
        """
        if not self.signatures:  # 1
            raise SignatureError(
                "nobody signed this constitution", hint="'loyal constitution sign' signs it"
            )
        for one in self.signatures:
            if signing.verify(one, PURPOSE) != _record(constitution):  # 2, 3
                raise SignatureError(
                    f"{one.public.hex()} signed another text or version",
                    hint="compare the digests with 'loyal constitution show'",
                )
        signers = tuple(one.public for one in self.signatures)
        for public in wanted:  # 4
            if public not in signers:
                raise SignatureError(
                    f"{public.hex()} did not sign it", hint="ask for that signature, or go without"
                )
        return signers

    def to_bytes(self) -> bytes:
        """Canonical bytes; law: `Approvals.from_bytes(one.to_bytes()) == one`."""
        return encoding.encode([_FORM, [one.to_bytes() for one in self.signatures]])

    @classmethod
    def from_bytes(cls, data: bytes) -> Approvals:
        """SignatureError for other bytes, a signer twice, or signers out of order."""
        try:
            match encoding.decode(data):
                case [str(form), list(parts)] if form == _FORM and len(parts) <= MOST_SIGNERS:
                    texts = [one for one in parts if isinstance(one, bytes)]
                    found = cls(tuple(Signed[Plain].from_bytes(one) for one in texts))
                    if found.to_bytes() == data and found.joined(cls()) == found:
                        return found
        except EncodingError:
            pass
        raise SignatureError(
            "these are no signatures of a constitution",
            hint="give the file that 'loyal constitution sign' wrote",
        )


def _record(constitution: Constitution) -> list[Plain]:
    return [constitution.name, constitution.version, constitution.digest]
