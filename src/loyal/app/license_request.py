"""A license that the host has signed and the platform has not: the file that a host sends.

What is in it is public. Left out: the license itself (`roles.SignedLicense`), and the rules
(`protocol.licenses`).
"""

from __future__ import annotations

from dataclasses import dataclass

from loyal import encoding, signing
from loyal.encoding import Value
from loyal.errors import EncodingError, ProtocolError, SignatureError
from loyal.protocol.licenses import PURPOSE, SignLicense, Terms
from loyal.roles import SignedLicense
from loyal.signing import PublicKey, Signed, SigningKey

_KIND = "loyal license request 1"
_HINT = "have the host make it again with 'loyal license request'"


@dataclass(frozen=True)
class LicenseRequest:
    """Terms under the host's signature."""

    terms: Terms
    host_signature: bytes

    @classmethod
    def of(cls, terms: Terms, host: SigningKey) -> LicenseRequest:
        """Signed by the host. ProtocolError (L1) for another host's terms."""
        if terms.host != host.public.data:
            raise ProtocolError("the terms are another host's", hint=_HINT, rule="L1")
        return cls(terms, terms.sign(host))

    def to_bytes(self) -> bytes:
        """Canonical bytes; law: `LicenseRequest.from_bytes(one.to_bytes()) == one`."""
        return encoding.encode([_KIND, self.terms.to_bytes(), self.host_signature])

    @classmethod
    def from_bytes(cls, data: bytes) -> LicenseRequest:
        """ProtocolError (L1) for other bytes, and where the host's signature does not hold."""
        try:
            match encoding.decode(data):
                case [str(kind), bytes(terms), bytes(signature)] if kind == _KIND:
                    found = cls(Terms.from_bytes(terms), signature)
                    signed = Signed[Value](terms, PURPOSE, PublicKey(found.terms.host), signature)
                    signing.verify(signed, PURPOSE)
                    return found
        except (EncodingError, SignatureError) as error:
            raise ProtocolError(
                "this is no license request that its host signed", hint=_HINT, rule="L1"
            ) from error
        raise ProtocolError("this is no license request", hint=_HINT, rule="L1")

    def countersign(self, platform: SigningKey) -> SignedLicense:
        """The license, with the platform's signature beside the host's."""
        terms = self.terms
        return SignedLicense(terms, platform.public, self.host_signature, terms.sign(platform))


def command_of(license: SignedLicense) -> SignLicense:
    """The command that brings a license into the log."""
    return SignLicense(
        license.platform.data,
        license.terms,
        license.host_signature,
        license.platform_signature,
    )
