"""Checkpoints against a real one, their laws, and what is none."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_stage import LINES, LOG_NAME, NOW, ROOTS, log_signer, witness_signer

from loyal.errors import LedgerError
from loyal.merkle import EMPTY_ROOT
from loyal.protocol import Checkpoint, NoteSigner, SignedNote, VerifierKey
from loyal.protocol.checkpoint import (
    cosign_note,
    cosignatures,
    open_checkpoint,
    sign_checkpoint,
)
from loyal.protocol.note import MAX_SIZE

# A checkpoint of a public Certificate Transparency log and of public witnesses, with their keys.
REAL_NOTE = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3\
urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI7\
5MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqo\
XHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5\
hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5X\
eU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUF\
ucgKi7lI7cUiOvKFYe/TmN9DAg==
""".encode()
REAL_LOG = (
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
)
REAL_WITNESSES = [
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
]

# c2sp.org/tlog-cosignature, the example; its keys are not published.
SPEC_NOTE = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzG\
ku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1n\
PZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
""".encode()


def test_a_real_checkpoint_with_its_log_and_witnesses() -> None:
    note = SignedNote.from_bytes(REAL_NOTE)
    assert note.to_bytes() == REAL_NOTE
    opened = open_checkpoint(note, VerifierKey.from_text(REAL_LOG)).checkpoint
    assert (opened.size, opened.extensions) == (1432088532, ())
    assert opened.text == note.text
    found = cosignatures(note, map(VerifierKey.from_text, REAL_WITNESSES))
    assert [str(one.witness) for one in found] == REAL_WITNESSES
    assert {one.time_seconds for one in found} == {0x6A122120}

    changed = replace(note, text=replace(opened, size=42).text)
    with pytest.raises(LedgerError):
        open_checkpoint(changed, VerifierKey.from_text(REAL_LOG))
    with pytest.raises(LedgerError):
        cosignatures(changed, map(VerifierKey.from_text, REAL_WITNESSES))


def test_the_example_of_the_standard_is_read() -> None:
    note = SignedNote.from_bytes(SPEC_NOTE)
    assert Checkpoint.from_text(note.text).origin == "example.com/behind-the-sofa"
    assert note.signatures[1].time_seconds == 1679315147
    assert note.to_bytes() == SPEC_NOTE


@given(LINES, st.integers(1, MAX_SIZE), ROOTS, st.lists(LINES, max_size=3))
def test_checkpoints_round_trip(origin: str, size: int, root: bytes, more: list[str]) -> None:
    one = Checkpoint(origin, size, root, tuple(more))
    assert Checkpoint.from_text(one.text) == one
    log = log_signer(LOG_NAME)
    note = SignedNote.from_bytes(sign_checkpoint(one, log).note.to_bytes())
    assert open_checkpoint(note, log.verifier, origin).checkpoint == one


ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "a\n1\n",
        f"a\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"a\n01\n{ROOT}\n",
        f"a\n+1\n{ROOT}\n",
        f"a\n-1\n{ROOT}\n",
        f"a\n1 \n{ROOT}\n",
        f"a\n1_0\n{ROOT}\n",
        f"a\n\u0661\n{ROOT}\n",
        f"a\n{2**63}\n{ROOT}\n",
        f"a\n{10**30}\n{ROOT}\n",
        f"a\n0\n{ROOT}\n",
        f"a\n1\n{ROOT[:-1]}\n",
        f"a\n1\n{ROOT[:-2]}J=\n",
        "a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw==\n",
        f"a\n1\n{ROOT}\n\n",
        f"a\n1\n{ROOT}\n\nmore\n",
        f"a\x01\n1\n{ROOT}\n",
        f"a\n1\n{ROOT}\ntab\t\n",
    ],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(LedgerError) as caught:
        Checkpoint.from_text(text)
    assert caught.value.reason == "malformed"


@given(st.text(max_size=60))
def test_nonsense_is_our_error(text: str) -> None:
    for tried in (text, f"a\n{text}\n{ROOT}\n", f"a\n1\n{text}\n"):
        with contextlib.suppress(LedgerError):
            assert Checkpoint.from_text(tried).text == tried


def test_the_largest_size_and_the_empty_log() -> None:
    assert Checkpoint.from_text(f"a\n{MAX_SIZE}\n{ROOT}\n").size == 2**63 - 1
    empty = Checkpoint("a", 0, EMPTY_ROOT)
    assert Checkpoint.from_text(empty.text) == empty


def test_another_log_another_key_and_no_signature(log: NoteSigner) -> None:
    note = sign_checkpoint(Checkpoint(LOG_NAME, 1, bytes(32)), log).note
    assert open_checkpoint(note, log.verifier).checkpoint.size == 1
    for key, origin, reason in (
        (log.verifier, "example.com/other", "origin"),
        (log_signer(LOG_NAME).verifier, None, "signature"),
        (log_signer("example.com/other").verifier, LOG_NAME, "signature"),
    ):
        with pytest.raises(LedgerError) as caught:
            open_checkpoint(note, key, origin)
        assert caught.value.reason == reason


def test_a_witness_under_two_names_is_one(log: NoteSigner) -> None:
    note = sign_checkpoint(Checkpoint(LOG_NAME, 1, bytes(32)), log).note
    first = witness_signer("example.com/first")
    again = replace(first, name="example.com/again")
    both = note.with_signatures(cosign_note(note, one, NOW).line for one in (first, again))
    assert len(both.signatures) == 3
    assert len(cosignatures(both, [first.verifier, again.verifier])) == 1
    assert cosignatures(both, [witness_signer("example.com/first").verifier]) == ()
    assert cosignatures(both, [log.verifier]) == ()
