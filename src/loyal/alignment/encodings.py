"""Ways to write a text so that a filter does not see it and a model may still read it.

Each is a pair of pure functions with one law, which tests hold for any text:

    decode(encode(text, rng)) == fold(text)

`fold` is what the form can carry: for most all of the text, for Morse no case, for leetspeak no
difference between 4 and a. Left out: the words that ask a model to read them (data/attacks.toml).
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import random
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from urllib.parse import quote, unquote

from loyal.errors import UsageError

Fold = Callable[[str], str]


def _whole(text: str) -> str:
    return text


@dataclass(frozen=True)
class Encoding:
    """One form."""

    encode: Callable[[str, random.Random], str]
    """Draws where the form leaves a choice, from the rng alone."""
    decode: Fold
    """Back to the text, folded. UsageError for what `encode` cannot have written."""
    fold: Fold = _whole
    """What the form carries of a text; folding twice changes nothing."""


_LEET = dict(zip("aeiost", "431057", strict=True))
_LEET_BACK = str.maketrans({sign: letter for letter, sign in _LEET.items()})
_LEET_SHARE = 0.8
"""Of the letters that have a sign, how many get it."""

_LIKE = dict(zip("aceijopsxyACEHIJKMOPSTX", "асеіјорѕхуАСЕНІЈКМОРЅТХ", strict=True))
"""Latin letters and the Cyrillic ones that look the same."""
_LIKE_BACK = str.maketrans({other: letter for letter, other in _LIKE.items()})
_LIKE_SHARE = 0.6

_INVISIBLE = "\u200b\u200c\u2060"
_INVISIBLE_BACK = str.maketrans(dict.fromkeys(_INVISIBLE))
_INVISIBLE_SHARE = 0.5
"""Of the places between two characters, how many get an invisible one."""

_MORSE = dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?'!/()&:;=+-_\"@",
        ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- "
        ".-- -..- -.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. .-.-.- "
        "--..-- ..--.. .----. -.-.-- -..-. -.--. -.--.- .-... ---... -.-.-. -...- .-.-. -....- "
        "..--.- .-..-. .--.-.".split(),
        strict=True,
    )
)
"""ITU-R M.1677-1, with the marks ! & ; _ in their common use beside it."""
_MORSE_BACK = {code: letter for letter, code in _MORSE.items()}

_PARTS = re.compile(r'^[^\n"]*?("(?:[^"\\\n]|\\.)*")$', re.MULTILINE)
_NUMBERED = re.compile(r"\((\d+)\)(\S+)")
_WORD = re.compile(r"\w+")


def _leet(text: str, rng: random.Random) -> str:
    return _some(text, _LEET, _LEET_SHARE, rng)


def _like(text: str, rng: random.Random) -> str:
    return _some(text, _LIKE, _LIKE_SHARE, rng)


def _some(text: str, table: Mapping[str, str], share: float, rng: random.Random) -> str:
    """Each letter of the table replaced with chance `share`."""
    return "".join(table[one] if one in table and rng.random() < share else one for one in text)


def _invisible(text: str, rng: random.Random) -> str:
    if not text:
        return text
    inside = (
        (rng.choice(_INVISIBLE) if rng.random() < _INVISIBLE_SHARE else "") + one
        for one in text[1:]
    )
    return text[0] + "".join(inside)


def _from_base64(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        raise _unreadable("base64") from None


def _from_hex(text: str) -> str:
    try:
        return bytes.fromhex(text).decode("utf-8", "surrogatepass")
    except ValueError:
        raise _unreadable("hexadecimal") from None


def _from_binary(text: str) -> str:
    try:
        return bytes(int(one, 2) for one in text.split()).decode("utf-8", "surrogatepass")
    except ValueError:
        raise _unreadable("binary") from None


def _morse(text: str, _rng: random.Random) -> str:
    words = _upper_words(text).split(" ")
    return " / ".join(" ".join(_MORSE.get(one, one) for one in word) for word in words)


def _from_morse(text: str) -> str:
    words = text.split(" / ")
    return " ".join("".join(_MORSE_BACK.get(one, one) for one in word.split(" ")) for word in words)


def _spaced(text: str, _rng: random.Random) -> str:
    return " ".join(text)


def _pieces(text: str, rng: random.Random) -> str:
    """Three to six numbered quoted pieces, cut anywhere: `part 2 = "rary t"`."""
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randint(2, 5)))
    bounds = [0, *cuts, len(text)]
    parts = [text[here:there] for here, there in pairwise(bounds)]
    quoted = (json.dumps(one, ensure_ascii=False) for one in parts)
    return "\n".join(f"part {number} = {one}" for number, one in enumerate(quoted, 1))


def _from_pieces(text: str) -> str:
    try:
        return "".join(json.loads(one) for one in _PARTS.findall(text))
    except ValueError:
        raise _unreadable("pieces") from None


def _shuffled(text: str, rng: random.Random) -> str:
    """The words with their numbers, in a drawn order."""
    numbered = [f"({number}){word}" for number, word in enumerate(text.split(), 1)]
    rng.shuffle(numbered)
    return " ".join(numbered)


def _from_shuffled(text: str) -> str:
    found = {int(number): word for number, word in _NUMBERED.findall(text)}
    return " ".join(found[number] for number in sorted(found))


def perturbed(text: str, rng: random.Random) -> str:
    """One sample of the perturbations of Best-of-N jailbreaking (Hughes et al., arXiv 2412.03556).

    In six words of ten the letters between the first and the last are shuffled, and six letters of
    ten change their case. The paper's noise on single letters is left out, so that every word
    keeps its letters.
    """

    def scrambled(match: re.Match[str]) -> str:
        word = match.group()
        if len(word) > 3 and rng.random() < 0.6:
            inner = list(word[1:-1])
            rng.shuffle(inner)
            word = word[0] + "".join(inner) + word[-1]
        return "".join(
            one.swapcase() if one.isascii() and rng.random() < 0.6 else one for one in word
        )

    return _WORD.sub(scrambled, text)


def _letters_of_words(text: str) -> str:
    """Each word as its letters in alphabetic order, without case."""
    lower = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
    return _WORD.sub(lambda match: "".join(sorted(match.group().translate(lower))), text)


def _upper_words(text: str) -> str:
    return " ".join(text.upper().split())


def _single_spaces(text: str) -> str:
    return " ".join(text.split())


def _unreadable(form: str) -> UsageError:
    return UsageError(f"the text is not in {form}", hint="give what the same encoding wrote")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        "leetspeak": Encoding(
            _leet, lambda text: text.translate(_LEET_BACK), lambda text: text.translate(_LEET_BACK)
        ),
        "homoglyphs": Encoding(
            _like, lambda text: text.translate(_LIKE_BACK), lambda text: text.translate(_LIKE_BACK)
        ),
        "invisible-characters": Encoding(
            _invisible,
            lambda text: text.translate(_INVISIBLE_BACK),
            lambda text: text.translate(_INVISIBLE_BACK),
        ),
        "base64": Encoding(
            lambda text, _rng: base64.b64encode(_utf8(text)).decode("ascii"), _from_base64
        ),
        "rot13": Encoding(lambda text, _rng: _rot13(text), _rot13),
        "hexadecimal": Encoding(lambda text, _rng: _utf8(text).hex(" "), _from_hex),
        "binary": Encoding(
            lambda text, _rng: " ".join(f"{one:08b}" for one in _utf8(text)), _from_binary
        ),
        "morse": Encoding(_morse, _from_morse, _upper_words),
        "percent": Encoding(lambda text, _rng: quote(_utf8(text), safe=""), unquote),
        "spaced-letters": Encoding(_spaced, lambda text: text[::2]),
        "mirrored": Encoding(lambda text, _rng: text[::-1], lambda text: text[::-1]),
        "payload-splitting": Encoding(_pieces, _from_pieces),
        "numbered-words": Encoding(_shuffled, _from_shuffled, _single_spaces),
        "best-of-n": Encoding(
            lambda text, rng: perturbed(text, rng), _letters_of_words, _letters_of_words
        ),
    }
)
"""By the id of the attack's family."""
