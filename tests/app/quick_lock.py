"""A vault whose passphrase opens in milliseconds: the work factor of its lock is small.

The age format by hand (https://c2sp.org/age, the scrypt recipient and the payload), because pyrage
lets nobody choose the factor. What opens it is the product's own code. A lock of the full factor is
tested in tests/fingerprints/test_vault.py.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64encode
from pathlib import Path

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as sealed

from loyal.fingerprints import FingerprintSet, Identity, Vault
from loyal.fingerprints.sealed import Envelope

_LOG_N = 10  # 18 or so in a lock by pyrage
_NONCE = bytes(12)


def quick_vault(path: Path, fingerprints: FingerprintSet, passphrase: str) -> None:
    """Write a vault with one set, locked by a passphrase, as `Vault.create` does slowly."""
    inner = Identity.generate()
    lock = _encrypted(inner.text.encode(), passphrase.encode())
    vault = Vault(path, Envelope(lock, inner))
    vault.add(fingerprints)
    vault.save()


def _encrypted(plain: bytes, passphrase: bytes) -> bytes:
    """An age file of one short chunk for one passphrase."""
    file_key, salt, start = (secrets.token_bytes(16) for _ in range(3))
    salted = b"age-encryption.org/v1/scrypt" + salt
    wrap = hashlib.scrypt(passphrase, salt=salted, n=1 << _LOG_N, r=8, p=1, dklen=32)
    header = b"age-encryption.org/v1\n-> scrypt %s %d\n%s\n---" % (
        _base64(salt), _LOG_N, _base64(sealed(file_key, None, _NONCE, wrap)),
    )  # fmt: skip
    mac = hmac.digest(_derived(file_key, b"", b"header"), header, "sha256")
    last = _NONCE[:-1] + b"\1"
    body = sealed(plain, None, last, _derived(file_key, start, b"payload"))
    return b"%s %s\n%s%s" % (header, _base64(mac), start, body)


def _derived(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), one block."""
    return hmac.digest(hmac.digest(salt, key, "sha256"), purpose + b"\1", "sha256")


def _base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")
