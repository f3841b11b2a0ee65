"""Signed notes against the published vectors, their laws, and every way to spoil one."""

import base64
import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_stage import NAMES, NOW, TEXTS, changed_bytes, log_signer, witness_signer

from loyal.errors import LedgerError, LoyalError, UsageError
from loyal.protocol import KeyKind, NoteSignature, NoteSigner, SignedNote, VerifierKey
from loyal.protocol.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    MAX_SIZE,
    MAX_TIME_SECONDS,
    cosigned_message,
    from_decimal,
    sign_note,
)
from loyal.signing import SigningKey

# golang.org/x/mod/sumdb/note, note_test.go.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdng"
    "otpRZb6KE6RyyBwJnAM=\n"
)
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWL"
    "ox33WWd1RvMc+QQ=\n"
)
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_NOTE = (GO_TEXT + "\n" + PETER_LINE).encode()

# c2sp.org/signed-note, Verifier keys, Example.
SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ON"
    "ncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()

# transparency-dev/formats, note_cosigv1_test.go: a key and a cosignature's time.
REMORA = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
TIMED = (
    "ZGhGuQAAAABm/qTPeyKXD+R2rzyQsxPiP8mXum7qq/iF0u4vanlqJyocWODBt97w9uL+8qT7S5gxEHWWOworDcFiEBYJ"
    "XORmnFBOBA=="
)


def peter() -> NoteSigner:
    """The published secret key."""
    seed = base64.b64decode(PETER_SECRET)[1:]
    return NoteSigner("PeterNeumann", SigningKey.from_seed(seed))


@pytest.mark.parametrize(
    ("data", "key"), [(GO_NOTE, PETER), (SPEC_NOTE, SPEC_KEY)], ids=["sumdb", "c2sp"]
)
def test_published_notes(data: bytes, key: str) -> None:
    note = SignedNote.from_bytes(data)
    assert note.signature_of(VerifierKey.from_text(key)) == note.signatures[0]
    assert note.to_bytes() == data
    with pytest.raises(LedgerError):
        replace(note, text=note.text + "more\n").signature_of(VerifierKey.from_text(key))


def test_the_published_key_signs_the_published_note() -> None:
    assert str(peter().verifier) == PETER
    assert sign_note(GO_TEXT, peter()).to_bytes() == GO_NOTE


def test_a_note_of_two_with_one_known_key() -> None:
    note = SignedNote.from_bytes(GO_NOTE + ENOCH_LINE.encode())
    assert [one.line() for one in note.signatures] == [PETER_LINE, ENOCH_LINE]
    assert note.signature_of(VerifierKey.from_text(PETER)) is not None
    assert note.signature_of(VerifierKey.from_text(ENOCH)) is not None
    assert note.signature_of(VerifierKey.from_text(SPEC_KEY)) is None


@pytest.mark.parametrize("text", [PETER, ENOCH, SPEC_KEY, REMORA])
def test_verifier_keys_as_published(text: str) -> None:
    key = VerifierKey.from_text(text)
    assert str(key) == text
    assert key.kind is (KeyKind.COSIGNATURE if text is REMORA else KeyKind.ED25519)


@pytest.mark.parametrize("text", [PETER, REMORA])
def test_no_part_and_no_change_of_a_verifier_key_is_one(text: str) -> None:
    parts = [text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    changed = [text[:i] + chr(ord(text[i]) + 1) + text[i + 1 :] for i in range(len(text))]
    for wrong in {
        *parts,
        *changed,
        text.upper(),
        text.replace("c74f", "C74F"),
        text + "=",
        text + "\n",
        "",
    } - {text}:
        with pytest.raises(LoyalError):
            VerifierKey.from_text(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "bananas.sigstore.dev+12344556",
        "rekor.sigstore.dev+12345678+THIS_IS_NOT_BASE64!",
        "rekor.sigstore.dev+12345678+AwEB",
    ],
)
def test_published_keys_that_are_none(text: str) -> None:
    with pytest.raises(LedgerError):
        VerifierKey.from_text(text)


def test_the_published_time_of_a_cosignature() -> None:
    data = base64.b64decode(TIMED)
    assert NoteSignature("a", data[:4], data[4:]).time_seconds == 1727964367
    with pytest.raises(LedgerError):
        NoteSignature("a", data[:4], data[12:]).time_seconds  # noqa: B018
    with pytest.raises(LedgerError):
        NoteSignature("a", data[:4], b"\x80" + data[5:]).time_seconds  # noqa: B018


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        GO_TEXT.encode(),
        GO_TEXT.encode() + b"\n",
        GO_NOTE[:-1],
        GO_NOTE + b"\n",
        GO_NOTE + b"Unexpected line.\n",
        GO_NOTE + PETER_LINE.encode(),
        GO_NOTE + PETER_LINE.replace("x08go/ZJ", "x08go/ZK").encode(),
        b"\x01" + GO_NOTE,
        b"\xff" + GO_NOTE,
        GO_NOTE.replace(b"\n", b"\r\n"),
        GO_NOTE.replace(b"PeterNeumann", b"Peter Neumann"),
        GO_NOTE.replace(b"PeterNeumann", b"Peter+Neumann"),
        GO_NOTE.replace(b"PeterNeumann", "Peter\u00a0Neumann".encode()),
        GO_NOTE.replace(b"PeterNeumann", b""),
        GO_NOTE.replace("— ".encode(), b"- "),
        GO_NOTE.replace(b"nAM=", b"nAM"),
        GO_NOTE.replace(b"nAM=", b"nAN="),
        GO_NOTE.replace(b"nAM=", b"nAM=="),
        GO_NOTE.replace(b"ZJkuBS", b"ZJ_uBS"),
        GO_TEXT.encode() + "\n— PeterNeumann x08goQ\n".encode(),
        GO_TEXT.encode() + "\n— PeterNeumann x08gow==\n".encode(),
        b"x" * MAX_NOTE_BYTES + GO_NOTE,
    ],
)
def test_what_is_no_note(data: bytes) -> None:
    with pytest.raises(LedgerError) as caught:
        SignedNote.from_bytes(data)
    assert caught.value.reason == "malformed"


def test_too_many_signatures() -> None:
    lines = "".join(
        NoteSignature(f"k{index}", bytes(4), b"s").line() for index in range(MAX_SIGNATURES + 1)
    )
    most = lines[: lines.rindex("—")]
    assert len(SignedNote.from_bytes(b"a\n\n" + most.encode()).signatures) == MAX_SIGNATURES
    with pytest.raises(LedgerError):
        SignedNote.from_bytes(b"a\n\n" + lines.encode())


def test_every_change_of_a_byte_is_refused_or_does_not_verify() -> None:
    key = VerifierKey.from_text(PETER)
    for wrong in changed_bytes(GO_NOTE):
        try:
            found = SignedNote.from_bytes(wrong).signature_of(key)
        except LedgerError:
            continue
        assert found is None


@given(st.integers(0, len(GO_NOTE) - 1), st.integers(1, 255))
def test_any_change_of_a_byte_is_refused_or_does_not_verify(place: int, mask: int) -> None:
    wrong = GO_NOTE[:place] + bytes([GO_NOTE[place] ^ mask]) + GO_NOTE[place + 1 :]
    with contextlib.suppress(LedgerError):
        assert SignedNote.from_bytes(wrong).signature_of(VerifierKey.from_text(PETER)) is None


@given(TEXTS, NAMES, NAMES)
def test_notes_round_trip(text: str, name: str, other: str) -> None:
    log, witness = log_signer(name), witness_signer(other)
    note = sign_note(text, log).with_signatures([witness.sign(text, NOW)])
    assert SignedNote.from_bytes(note.to_bytes()) == note
    assert note.signature_of(log.verifier) == note.signatures[0]
    assert note.signature_of(witness.verifier) == note.signatures[1]
    assert note.signatures[1].time_seconds == NOW
    assert VerifierKey.from_text(str(log.verifier)) == log.verifier
    assert note.with_signatures([witness.sign(text, NOW + 1)]).signatures[1].time_seconds == NOW + 1


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda x: x.encode("utf-8", "replace")))
def test_nonsense_is_our_error(data: bytes) -> None:
    for text in (data, b"a\n\n" + "— ".encode() + data + b"\n"):
        with contextlib.suppress(LedgerError):
            assert SignedNote.from_bytes(text).to_bytes() == text


def test_a_key_of_one_kind_does_not_verify_the_other() -> None:
    key = SigningKey.generate()
    log, witness = NoteSigner("a", key), NoteSigner("a", key, KeyKind.COSIGNATURE)
    assert log.verifier.key_id != witness.verifier.key_id
    timed, plain = witness.sign("text\n", NOW), log.sign("text\n")
    assert witness.verifier.verifies("text\n", timed)
    assert not log.verifier.verifies("text\n", replace(timed, key_id=log.verifier.key_id))
    assert not witness.verifier.verifies("text\n", replace(plain, key_id=witness.verifier.key_id))
    later = (NOW + 1).to_bytes(8, "big") + timed.signature[8:]
    assert not witness.verifier.verifies("text\n", replace(timed, signature=later))
    beyond = b"\xff" * 8 + timed.signature[8:]
    assert not witness.verifier.verifies("text\n", replace(timed, signature=beyond))


def test_a_line_under_another_name_or_hash_is_not_the_keys() -> None:
    log = log_signer("a")
    line = log.sign("text\n")
    assert log.verifier.verifies("text\n", line)
    assert not log.verifier.verifies("text\n", replace(line, name="b"))
    assert not log.verifier.verifies("text\n", replace(line, key_id=bytes(4)))


def test_numbers_are_decimal_and_fit() -> None:
    assert from_decimal("0") == 0
    assert from_decimal(str(MAX_SIZE)) == 2**63 - 1
    for text in (
        "",
        "00",
        "-1",
        "+1",
        "1 ",
        "0x1",
        "\u0661",
        str(MAX_SIZE + 1),
        "9" * 19,
        "1" * 99,
    ):
        with pytest.raises(LedgerError):
            from_decimal(text)


def test_the_message_of_a_cosignature() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert cosigned_message(text, 1679315147) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    for time in (-1, MAX_TIME_SECONDS + 1):
        with pytest.raises(UsageError):
            cosigned_message(text, time)


def test_times_are_for_cosignatures() -> None:
    with pytest.raises(UsageError):
        log_signer("a").sign("text\n", NOW)
    with pytest.raises(UsageError):
        witness_signer("a").sign("text\n")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "a\x00", "\u2003", "\ud800"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(LedgerError):
        log_signer(name)


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "\r\n", "\ud800\n"])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(LedgerError):
        sign_note(text, peter())
