"""Text reworded by plain rules: what a host can do to prompts and replies without any model.

Every function maps a text to a text, and the same text always to the same one. Text in other
languages than English passes mostly unchanged. Models that reword are `serving_attacks`' business.
"""

from __future__ import annotations

import re
import string

ASKING = "Please tell me: "
"""Put before a prompt."""
OPENING = "Sure. "
"""Put before a reply."""

SYNONYMS = {
    "about": "regarding",
    "also": "too",
    "answer": "reply",
    "begin": "start",
    "best": "finest",
    "big": "large",
    "buy": "purchase",
    "choose": "pick",
    "create": "make",
    "describe": "sketch",
    "difference": "distinction",
    "difficult": "hard",
    "easy": "simple",
    "effect": "impact",
    "end": "finish",
    "example": "instance",
    "explain": "describe",
    "fast": "quick",
    "find": "locate",
    "get": "obtain",
    "give": "offer",
    "good": "fine",
    "hard": "difficult",
    "help": "assist",
    "idea": "thought",
    "ideas": "suggestions",
    "important": "essential",
    "improve": "better",
    "large": "big",
    "list": "name",
    "look": "glance",
    "main": "chief",
    "make": "create",
    "mean": "signify",
    "method": "way",
    "need": "require",
    "often": "frequently",
    "people": "persons",
    "plan": "scheme",
    "problem": "issue",
    "quick": "fast",
    "quickly": "rapidly",
    "reason": "cause",
    "say": "state",
    "short": "brief",
    "show": "display",
    "simple": "easy",
    "small": "little",
    "start": "begin",
    "story": "tale",
    "suggest": "propose",
    "summarize": "sum up",
    "talk": "speak",
    "tell": "inform",
    "think": "believe",
    "try": "attempt",
    "use": "employ",
    "want": "wish",
    "way": "method",
    "work": "function",
    "write": "compose",
    "wrong": "incorrect",
}
"""A word and what stands in for it; keys and values in lower case."""

LONG_FORMS = {
    "can't": "cannot",
    "don't": "do not",
    "doesn't": "does not",
    "i'm": "i am",
    "isn't": "is not",
    "it's": "it is",
    "i've": "i have",
    "what's": "what is",
    "won't": "will not",
}

_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_MARKS = str.maketrans(dict.fromkeys(string.punctuation.replace("'", ""), " "))
_CONDITION = re.compile(r"(if|when|because|although|since|while|after|before)\b[^,]*$", re.I)


def lower_case(text: str) -> str:
    """All letters in lower case."""
    return text.lower()


def single_spaces(text: str) -> str:
    """Runs of white space as one space, none at the ends."""
    return " ".join(text.split())


def without_marks(text: str) -> str:
    """Without punctuation, apostrophes aside; the gaps are closed."""
    return single_spaces(text.translate(_MARKS))


def normalized(text: str) -> str:
    """Lower case, no marks, single spaces."""
    return without_marks(lower_case(text))


def synonyms(text: str) -> str:
    """Each word of the bundled table replaced, short forms written out; case is kept."""

    def replaced(match: re.Match[str]) -> str:
        word = match.group()
        low = word.lower().replace("’", "'")
        other = SYNONYMS.get(low) or LONG_FORMS.get(low)
        if other is None:
            return word
        if word[0].isupper():
            return other[0].upper() + other[1:]
        return other.replace("i ", "I ", 1) if low.startswith("i'") else other

    return _WORD.sub(replaced, text)


def reordered(text: str) -> str:
    """The last sentence first; of one sentence, a side clause to the other end; else as it is.

    "If it rains, what do I wear?" turns to "What do I wear if it rains?".
    """
    sentences = _SENTENCE.split(text.strip())
    if len(sentences) > 1:
        return " ".join([sentences[-1], *sentences[:-1]])
    body, mark = text.strip(), ""
    if body and body[-1] in ".!?":
        body, mark = body[:-1], body[-1]
    first, comma, rest = body.partition(", ")
    if comma and _CONDITION.match(first) and rest:
        return f"{_capital(rest)} {first[0].lower()}{first[1:]}{mark}"
    return text


def reworded(text: str) -> str:
    """Synonyms, reordered, and `ASKING` before it: everything at once."""
    text = reordered(synonyms(text))
    return ASKING + text


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
