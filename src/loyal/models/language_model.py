"""What a language model is to the rest of the house: text in, text and chances out.

Holds the protocol and its small nouns. Leaves out on purpose every way to run a model: `hf` runs
one in this process, `endpoint` asks a server, and both answer through this one door.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from loyal.errors import UsageError


@dataclass(frozen=True)
class Prompt:
    """One user turn, after the turns before it."""

    text: str
    """The user's message, or the raw text to continue."""
    system: str | None = None
    """System message; None leaves the chat template's own default."""
    raw: bool = False
    """Without the chat template: the text itself is the model's whole input."""
    history: tuple[tuple[str, str], ...] = ()
    """Earlier exchanges, oldest first: what the user said, and what the assistant replied. Pairs,
    so that roles alternate as strict chat templates want it."""

    def __post_init__(self) -> None:
        if self.raw and (self.system is not None or self.history):
            raise UsageError(
                "a raw prompt has no system message and no earlier turns",
                hint="drop the system message and history, or use the chat template (raw=False)",
            )

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns in the chat form of OpenAI and of chat templates; UsageError when raw."""
        if self.raw:
            raise UsageError("a raw prompt has no turns", hint="read its text, or use raw=False")
        said = [] if self.system is None else [("system", self.system)]
        for user, assistant in self.history:
            said += [("user", user), ("assistant", assistant)]
        return [{"role": role, "content": text} for role, text in [*said, ("user", self.text)]]


@dataclass(frozen=True)
class Reply:
    """What the model wrote after one prompt."""

    text: str
    """Without special tokens."""
    tokens: int
    """Number of tokens written."""
    finished: bool
    """True when the model ended its turn itself, False when `max_tokens` cut it."""


@dataclass(frozen=True, eq=False)
class Form:
    """What a reply is to look like: JSON of one schema."""

    name: str
    """For the server: letters, digits, _ and -, 64 at most."""
    schema: Mapping[str, Any]
    """A JSON schema of an object, in which every field is required and no other allowed: OpenAI's
    strict mode takes no looser one."""


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn."""

    max_tokens: int = 16
    """At most this many new tokens a reply."""
    temperature: float = 0.0
    """0 is greedy decoding; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Nucleus: keep the most likely tokens whose chances sum to at least this."""
    seed: int | None = None
    """Makes sampled replies repeatable; None draws a fresh one."""
    form: Form | None = field(default=None, repr=False)
    """A wish: what cannot hold to it (a model in this process, some servers, a raw prompt) replies
    as without it, so the prompt says it in words too, and the reader takes nothing for granted."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError("max_tokens must be at least 1", hint="ask for one token or more")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                "temperature must be at least 0 and top_p in (0, 1]",
                hint="temperature 0 is greedy; top_p 1 keeps every token",
            )


@dataclass(frozen=True)
class TokenChance:
    """One candidate for the next token."""

    text: str
    """The token as text."""
    logprob: float
    """Natural logarithm of its chance."""


@runtime_checkable
class LanguageModel(Protocol):
    """A model that can be asked. Order of the answers is the order of the prompts."""

    @property
    def name(self) -> str:
        """What reports call it: a library name, a folder, or a server's model id."""
        ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One reply a prompt."""
        ...

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """The `top` most likely first tokens of each reply, most likely first."""
        ...

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Natural log-probability of each token of each reply, given its prompt."""
        ...


class Replies(Protocol):
    """The replies of a model to one prompt, the likeliest first; it remembers where it stands."""

    def next(self, count: int, tokens: int) -> tuple[list[Reply], int]:
        """The next `count` replies, fewer where `tokens` are spent before or no more are known,
        and the tokens spent."""
        ...


@runtime_checkable
class Enumerator(Protocol):
    """A model that can list its replies."""

    def enumerate(self, prompt: Prompt, longest: int) -> Replies:
        """Its replies to a prompt of at most `longest` tokens, each once, the likeliest first."""
        ...
