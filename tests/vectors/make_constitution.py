"""Writes constitution.json: the canonical bytes of one constitution, by an encoder of its own.

CBOR (RFC 8949, sections 3 and 4.2.1) is written out here for texts, lists and small integers, and
shares no code with loyal. Run it to regenerate: `python tests/vectors/make_constitution.py`; the
tests regenerate and compare.
"""

import hashlib
import json
from pathlib import Path

FILE = Path(__file__).with_name("constitution.json")
FORM = "loyal constitution 1"
RECORD = [
    FORM,
    "our-library",
    "1.2.3",
    "de",
    "Wir sind die Bücherei.\n\nAlle sind willkommen.",
    [["No threats.", []]],
    [
        [
            "privacy", "Says nothing of what others read.", 6000, "Trust.", ["loans", "police"],
            [["No names.", ["she borrowed", "he borrowed"]]],
            [
                ["Who borrowed it?", "I do not tell that.", "Your neighbor did."],
                ["What does my son read?", "Ask him.", ""],
                ["And my wife?", "", "Ghost stories."],
            ],
        ],
        ["honesty", "Says what it does not know.", 4000, "", [], [], []],
    ],
]  # fmt: skip
"""[form, name, version, language, preamble, red lines, values]; see `Constitution.to_bytes`."""


def head(major: int, argument: int) -> bytes:
    """A data item's head: the major type, and the argument in the fewest bytes."""
    if argument < 24:
        return bytes([major << 5 | argument])
    size = 1 if argument < 1 << 8 else 2 if argument < 1 << 16 else 4
    return bytes([major << 5 | {1: 24, 2: 25, 4: 26}[size]]) + argument.to_bytes(size, "big")


def cbor(value: str | int | list) -> bytes:
    """The deterministic bytes of a text, a count or a list."""
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    return head(4, len(value)) + b"".join(map(cbor, value))


def generate() -> str:
    """The text of constitution.json: the record, its bytes and its digest."""
    data = cbor(RECORD)
    framed = len(FORM).to_bytes(2, "big") + FORM.encode() + data
    fields = {
        "record": RECORD,
        "bytes": data.hex(),
        "digest": hashlib.sha256(framed).hexdigest(),
    }
    return json.dumps(fields, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    FILE.write_text(generate() + "\n", encoding="utf-8")
