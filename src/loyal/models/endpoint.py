"""Any OpenAI-compatible server as a `LanguageModel`: chat and raw completions over HTTP.

Holds the client: bounded concurrency, bounded retries, and the reading of answers that cannot be
trusted to be well formed. Every failure is an `EndpointError` of one line with a next step; none
ever shows a prompt, a reply, an API key or a text of the server. Streaming, redirects and the
proxy settings of the environment are left out on purpose, and so is reading the API key from
anywhere: it is an argument.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from loyal.errors import EndpointError, UsageError
from loyal.models.answers import (
    CHAT,
    RAW,
    decoded,
    error_code,
    read_first_chances,
    read_reply,
    read_scores,
)
from loyal.models.language_model import Form, Prompt, Reply, Sampling, TokenChance

T = TypeVar("T")
OnReply = Callable[[int, Reply], None]

_UNKNOWN_FIELD = (400, 422)
"""What servers answer to a field or a schema that they do not know: OpenAI's, and FastAPI's."""
_BROKEN_BY_IT = (500, 501)
"""What others answer to it; from a server that has taken a form before it is other trouble."""


@dataclass(frozen=True)
class Patience:
    """How long and how often a server is asked before it is given up."""

    attempts: int = 5
    """Requests for one prompt at most, the first included; one that is repeated because the server
    does not know forms counts once."""
    first_wait_seconds: float = 0.5
    """Wait before the second attempt; doubled for each further one, then cut by jitter to
    between one half and the whole."""
    longest_wait_seconds: float = 60.0
    """A server that asks (Retry-After) for more than this is given up at once."""
    timeout_seconds: float = 120.0
    """For one attempt, from connecting to the answer's last byte."""
    most_bytes: int = 4 << 20
    """Longest answer that is read."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.timeout_seconds <= 0 or self.most_bytes < 1:
            raise UsageError(
                "an endpoint needs at least one attempt, and a time and size above zero",
                hint="raise attempts, timeout_seconds or most_bytes",
            )


@dataclass(frozen=True)
class Outside:
    """What the client takes from the world; tests bring their own."""

    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    """Waits that many seconds."""
    now: Callable[[], float] = time.time
    """Unix seconds, for a Retry-After that names a date."""
    rng: random.Random = field(default_factory=random.SystemRandom)
    """Draws the jitter."""


@dataclass
class Learned:
    """What the client finds out about its server."""

    forms: bool = True
    """False once it refused a form, and had never taken one."""
    held: bool = False
    """True once it took one: a later refusal is of that prompt alone, so that replies which are
    compared are asked for alike."""


@dataclass(frozen=True, repr=False)
class EndpointModel:
    """A model behind a server's `/v1/chat/completions` and `/v1/completions`.

    Satisfies `LanguageModel`. The methods are synchronous and work inside a running event loop
    too (which they block). The first prompt that fails for good stops the whole call; answers
    that came before it have been handed to `on_reply`.
    """

    url: str
    """The server's root, its `/v1`, or one of its completion routes."""
    model: str
    """The model's id on the server."""
    api_key: str | None = None
    """Sent as a bearer token; None sends none."""
    concurrency: int = 8
    """Requests in flight at most."""
    patience: Patience = Patience()
    outside: Outside = field(default_factory=Outside)
    learned: Learned = field(default_factory=Learned, init=False, compare=False)
    """Grows while it is asked."""

    def __post_init__(self) -> None:
        root_url(self.url)
        if self.concurrency < 1:
            raise UsageError("concurrency must be at least 1", hint="allow one request or more")
        if not self.model:
            raise UsageError("the endpoint needs a model id", hint="name one that it serves")
        if self.api_key is not None and not _is_header_text(self.api_key):
            raise UsageError(
                "the API key is empty or has white space or characters outside ASCII",
                hint="pass the key alone, without quotes or a line break",
            )

    def __repr__(self) -> str:
        return f"EndpointModel({self.model} at {_shown(root_url(self.url))})"

    @property
    def name(self) -> str:
        """The model's id on the server."""
        return self.model

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_reply: OnReply | None = None
    ) -> list[Reply]:
        """One reply a prompt, in the order of the prompts; EndpointError when one fails for good.

        `on_reply(index, reply)` is called once a prompt as soon as its answer is there, in order
        of arrival, one call at a time. A form is sent to the chat route as `response_format`, until
        the server refuses a prompt with it that it takes without.
        """
        told = on_reply or _ignore
        settings: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.seed is not None:
            settings["seed"] = sampling.seed
        jobs = [
            _Job(_route(one), {**_input(one), **settings}, None if one.raw else sampling.form)
            for one in prompts
        ]
        return self._ask(jobs, lambda index, answer: read_reply(answer, jobs[index].route), told)

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """The `top` most likely first tokens of each reply, or as many as the server gives.

        EndpointError when it gives none.
        """
        if top < 1:
            raise UsageError("top must be at least 1", hint="ask for one token or more")
        jobs = [_Job(_route(one), {**_input(one), **_first_chances(one, top)}) for one in prompts]
        return self._ask(
            jobs, lambda index, answer: read_first_chances(answer, jobs[index].route)[:top]
        )

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Natural log-probability of each token of each reply, given its prompt.

        Raw prompts need a server with `echo`, chat prompts one with vLLM's `prompt_logprobs`;
        EndpointError elsewhere. An empty reply costs no request.
        """
        pairs = list(zip(prompts, replies, strict=True))
        asked = [index for index, (_, reply) in enumerate(pairs) if reply]
        jobs = [_score_job(*pairs[index]) for index in asked]
        scores = self._ask(jobs, lambda place, answer: read_scores(answer, *pairs[asked[place]]))
        found: list[list[float]] = [[] for _ in pairs]
        for index, score in zip(asked, scores, strict=True):
            found[index] = score
        return found

    def user_logprobs(self, texts: Sequence[str]) -> list[list[float]]:
        """Natural log-probability of each token of each text as a user message.

        Needs vLLM's `prompt_logprobs`; EndpointError elsewhere.
        """
        jobs = []
        for text in texts:
            job = _score_job(Prompt(""), text)
            jobs.append(_Job(job.route, {**job.body, **_input(Prompt(text))}))
        return self._ask(jobs, lambda index, answer: read_scores(answer, Prompt(""), texts[index]))

    def _ask(
        self,
        jobs: Sequence[_Job],
        read: Callable[[int, Any], T],
        told: Callable[[int, T], None] | None = None,
    ) -> list[T]:
        """Send every job, read every answer; results in the order of the jobs."""
        if not jobs:
            return []
        return _run(_Exchange(self).all(jobs, read, told or _ignore))


@dataclass(frozen=True)
class _Job:
    route: str
    body: dict[str, Any]
    form: Form | None = None


class _Formless(Exception):
    """A refusal that may be of the form alone."""


class _Again(Exception):
    """A failure that may pass. `wait_seconds` is what the server asked for, if it did."""

    def __init__(self, failure: EndpointError, wait_seconds: float = 0.0) -> None:
        super().__init__(str(failure))
        self.failure, self.wait_seconds = failure, wait_seconds


class _Exchange:
    """The requests of one call, over one connection pool."""

    def __init__(self, owner: EndpointModel) -> None:
        self.owner = owner
        self.root = root_url(owner.url)

    async def all(
        self,
        jobs: Sequence[_Job],
        read: Callable[[int, Any], T],
        told: Callable[[int, T], None],
    ) -> list[T]:
        results: dict[int, T] = {}
        waiting: Iterator[tuple[int, _Job]] = iter(enumerate(jobs))

        async def work(session: aiohttp.ClientSession) -> None:
            for index, job in waiting:
                results[index] = await self._until_answered(
                    session, job, functools.partial(read, index)
                )
                told(index, results[index])

        async with self._session() as session:
            workers = min(self.owner.concurrency, len(jobs))
            tasks = [asyncio.create_task(work(session)) for _ in range(workers)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return [results[index] for index in range(len(jobs))]

    def _session(self) -> aiohttp.ClientSession:
        key = self.owner.api_key
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.owner.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.owner.patience.timeout_seconds),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def _until_answered(
        self, session: aiohttp.ClientSession, job: _Job, read: Callable[[Any], T]
    ) -> T:
        patience, outside = self.owner.patience, self.owner.outside
        for attempt in range(1, patience.attempts + 1):
            try:
                return read(await self._formed(session, job))
            except _Again as again:
                if again.wait_seconds > patience.longest_wait_seconds:
                    raise EndpointError(
                        f"{again.failure}, and asks to wait {again.wait_seconds:.0f} seconds",
                        hint="run again later; finished answers need not be asked again",
                    ) from None
                if attempt == patience.attempts:
                    raise EndpointError(
                        f"{again.failure} ({attempt} attempts)", hint=again.failure.hint
                    ) from None
                wait = patience.first_wait_seconds * 2 ** (attempt - 1)
                wait = min(wait, patience.longest_wait_seconds) * outside.rng.uniform(0.5, 1.0)
                await outside.sleep(max(wait, again.wait_seconds))
        raise AssertionError("the last attempt returns or raises")

    async def _formed(self, session: aiohttp.ClientSession, job: _Job) -> Any:
        """One answer, in the job's form where the server takes it. That it does not is believed
        when the same prompt is answered without."""
        plain, learned = replace(job, form=None), self.owner.learned
        if job.form is None or not learned.forms:
            return await self._once(session, plain)
        try:
            answer = await self._once(session, job)
            learned.held = True
        except _Formless:
            answer = await self._once(session, plain)
            learned.forms = learned.held
        return answer

    async def _once(self, session: aiohttp.ClientSession, job: _Job) -> Any:
        where = _shown(self.root)
        body = {"model": self.owner.model, "stream": False, **job.body, **_response_format(job)}
        url = self.root.with_path(f"{self.root.path}/{job.route}", keep_query=True)
        try:
            async with session.post(url, json=body, allow_redirects=False) as response:
                data = await self._read(response)
        except aiohttp.ClientConnectorCertificateError:
            raise EndpointError(
                f"the certificate of {where} is not trusted",
                hint="fix the server's certificate, or use its http address on a private network",
            ) from None
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            slow = isinstance(error, TimeoutError)
            what = "did not answer in time" if slow else "could not be reached"
            hint = "check that the server is up and the address right"
            raise _Again(EndpointError(f"{where} {what}", hint=hint)) from None
        except aiohttp.ClientPayloadError:
            failure = EndpointError(
                f"{where} broke off in the middle of an answer",
                hint="run again; look into the server's log when it happens every time",
            )
            raise _Again(failure) from None
        except (aiohttp.ClientError, ValueError):
            raise EndpointError(
                f"{where} does not speak proper HTTP",
                hint="check that the address and port are those of the model server",
            ) from None
        codes = _UNKNOWN_FIELD if self.owner.learned.held else (*_UNKNOWN_FIELD, *_BROKEN_BY_IT)
        may_be_form = job.form is not None and response.status in codes
        if may_be_form and error_code(data) != "context_length_exceeded":
            raise _Formless
        self._check_status(response, data)
        return decoded(data, response.content_type, where)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        most, data = self.owner.patience.most_bytes, bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > most:
                raise EndpointError(
                    f"{_shown(self.root)} answered with more than {most:,} bytes",
                    hint="check that the address is that of a completion API, or raise most_bytes",
                )
        return bytes(data)

    def _check_status(self, response: aiohttp.ClientResponse, data: bytes) -> None:
        status, where = response.status, _shown(self.root)
        if status == 200:
            return
        code = error_code(data)
        problem = f"{where} answered HTTP {status}{f' ({code})' if code else ''}"
        if status in (408, 425, 429) or status >= 500:
            hint = "the server is busy or broken; run again later, or lower the concurrency"
            wait = _retry_after(response.headers.get("Retry-After"), self.owner.outside.now)
            raise _Again(EndpointError(problem, hint=hint), wait)
        if 300 <= status < 400:
            raise EndpointError(
                f"{where} redirects elsewhere (HTTP {status})",
                hint="give the final address; an API key is never sent on to another one",
            )
        raise EndpointError(problem, hint=self._advice(status))

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            given = self.owner.api_key is not None
            return "check the API key" if given else "this server asks for an API key: give one"
        if status in (404, 405):
            return (
                f"check the address (it mostly ends in /v1) and that the server has a model "
                f"named {self.owner.model}"
            )
        return (
            "check the model id, that prompt and reply fit into its context, and that it gives as "
            "many token chances as are asked for (vLLM: --max-logprobs)"
        )


def root_url(url: str) -> URL:
    """The API root that completion routes are added to; UsageError when it is no http address.

    A bare host gets `/v1`; a completion route is cut off; any other path is taken as it is.
    """
    hint = "give an address like http://localhost:8000/v1"
    try:
        parsed = URL(url)
    except ValueError:
        raise UsageError("the endpoint's address cannot be read", hint=hint) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError("the endpoint's address is not an http or https one", hint=hint)
    if parsed.user or parsed.password:
        raise UsageError(
            "the endpoint's address holds a user name or password",
            hint="leave it out, and pass an API key on its own",
        )
    path = parsed.path.rstrip("/")
    for route in (CHAT, RAW):
        path = path.removesuffix(f"/{route}")
    return parsed.with_path(path or "/v1", keep_query=True).with_fragment(None)


def _route(prompt: Prompt) -> str:
    return RAW if prompt.raw else CHAT


def _input(prompt: Prompt) -> dict[str, Any]:
    if prompt.raw:
        return {"prompt": prompt.text}
    return {"messages": prompt.messages}


def _response_format(job: _Job) -> dict[str, Any]:
    """As OpenAI and vLLM take it."""
    if job.form is None:
        return {}
    told = {"name": job.form.name, "strict": True, "schema": dict(job.form.schema)}
    return {"response_format": {"type": "json_schema", "json_schema": told}}


def _first_chances(prompt: Prompt, top: int) -> dict[str, Any]:
    # Temperature 1: some servers report chances after dividing by it.
    ask = {"logprobs": top} if prompt.raw else {"logprobs": True, "top_logprobs": top}
    return {"max_tokens": 1, "temperature": 1.0, **ask}


def _score_job(prompt: Prompt, reply: str) -> _Job:
    if prompt.raw:
        body = {"prompt": prompt.text + reply, "echo": True, "logprobs": 1, "max_tokens": 1}
        return _Job(RAW, {**body, "temperature": 1.0})
    messages = [*_input(prompt)["messages"], {"role": "assistant", "content": reply}]
    extension = {"add_generation_prompt": False, "continue_final_message": True}
    body = {"messages": messages, "max_tokens": 1, "prompt_logprobs": 0, **extension}
    return _Job(CHAT, body)


def _retry_after(value: str | None, now: Callable[[], float]) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 when it says nothing."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now()
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _shown(url: URL) -> str:
    """The address for people: no query, where some servers want a key."""
    return str(url.with_query(None))


def _is_header_text(value: str) -> bool:
    return bool(value) and all(0x21 <= ord(letter) <= 0x7E for letter in value)


def _ignore(_index: int, _result: object) -> None:
    pass


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; on a thread of its own where an event loop already runs on this one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()
