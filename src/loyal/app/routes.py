"""The platform's routes but the permissions', in FastAPI: commands, the log, the state, the vault.

Handlers that read the log are plain functions: FastAPI runs them in threads. What reads the state
goes through the queue, between two steps. Keys, replies and leaves go to whom the rules name alone,
who signs the request (`signed_request`); nothing that has passed through here is cached.
"""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from loyal.app import http_forms as forms
from loyal.app import state_views as views
from loyal.app.asgi import App
from loyal.app.log_view import LogView
from loyal.app.openapi_page import complete
from loyal.app.permission_route import read_limited
from loyal.app.platform_client import to_base64url
from loyal.app.problems import Problem, problem_of, unexpected
from loyal.app.signed_request import caller
from loyal.errors import LoyalError, ProtocolError, UsageError
from loyal.protocol import State
from loyal.protocol.commands import SignedCommand
from loyal.protocol.state import Claim
from loyal.roles import Taken

if TYPE_CHECKING:
    from loyal.app.http import Parts

Id = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="32 bytes in hexadecimal.")]
Place = Annotated[int, Query(ge=0, lt=2**63)]

_log = logging.getLogger("loyal.platform")


def api_of(parts: Parts, log: LogView) -> App:
    """The FastAPI app of these routes."""
    app = FastAPI(title="loyal platform", version="1", docs_url=None, redoc_url=None)
    _handle_errors(app)
    _add_commands(app, parts)
    _add_log(app, parts, log)
    _add_state(app, parts, log)
    _add_vault(app, parts, log)
    _add_watch(app, parts)
    page = app.openapi
    complete_page: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not complete_page:
            complete_page.update(complete(page()))
        return complete_page

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _handle_errors(app: FastAPI) -> None:
    def answer(problem: Problem) -> Response:
        headers = {name.decode(): value.decode() for name, value in problem.headers}
        return Response(problem.body(), problem.status, headers, "application/json")

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> Response:
        return answer(error)

    @app.exception_handler(LoyalError)
    async def _ours(_: Request, error: LoyalError) -> Response:
        problem = problem_of(error)
        if problem.status >= 500:  # the operator's to know, not the asker's
            _log.warning("%s: %s", type(error).__name__, error)
        return answer(problem)

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> Response:
        return answer(unexpected())  # raised again after it: `PlatformApp` notes the place

    @app.exception_handler(RequestValidationError)
    async def _form(_: Request, error: RequestValidationError) -> Response:
        names = sorted({str(one["loc"][-1]) for one in error.errors()})
        return answer(Problem(400, f"not as it must be: {', '.join(names)}", "see /openapi.json"))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        words = "there is no such route" if error.status_code == 404 else "not by this method"
        headers = [(name.encode(), value.encode()) for name, value in (error.headers or {}).items()]
        return answer(Problem(error.status_code, words, "see /openapi.json", "", headers))


def _add_commands(app: FastAPI, parts: Parts) -> None:
    body = {"content": {"application/cbor": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post(
        "/v1/commands",
        response_model=forms.CommandAnswer,
        openapi_extra={"requestBody": {"required": True, **body}},
    )
    async def commands(request: Request) -> dict[str, Any]:
        """Have a signed command taken: its events, durable."""
        data = await read_limited(request.scope, request.receive, parts.limits.commands)
        try:
            signed = SignedCommand.from_bytes(data)
        except ProtocolError as error:
            raise Problem(400, str(error), error.hint) from None
        kind = type(signed.command).__name__
        try:
            taken: Taken = await parts.queue.take(signed)
        except ProtocolError as error:
            parts.metrics.commanded(kind, error.rule or "form")
            raise
        parts.metrics.commanded(kind, "taken")
        return {"index": taken.index, "events": [views.event_fields(one) for one in taken.events]}


def _add_log(app: FastAPI, parts: Parts, log: LogView) -> None:
    @app.get("/v1/platform", response_model=forms.PlatformAnswer)
    async def platform() -> dict[str, Any]:
        """Who the platform is. Nothing of it is proven."""
        state = parts.platform.state
        return {
            "platform": state.platform.hex(),
            "log": parts.log_key.name,
            "log_key": str(parts.log_key),
            "length": state.length,
            "parameters": views.parameter_fields(state),
        }

    @app.get("/v1/log/checkpoint", response_class=PlainTextResponse)
    async def checkpoint() -> Response:
        """The newest signed checkpoint (C2SP tlog-checkpoint)."""
        note = parts.platform.checkpoint
        if note is None:
            raise Problem(404, "the log is empty", "come back later")
        return Response(note.to_bytes(), media_type="text/plain; charset=utf-8")

    @app.get("/v1/log/entries", response_model=forms.EntriesAnswer)
    def entries(start: Place, stop: Place) -> dict[str, Any]:
        """Entries from `start` on, before `stop`; at most 1,000, and fewer where they are long."""
        return {"start": start, "entries": [to_base64url(one) for one in log.entries(start, stop)]}

    @app.get("/v1/log/inclusion", response_model=forms.HashesAnswer)
    def inclusion(index: Place, size: Place) -> dict[str, Any]:
        """The audit path of an entry in the log's first `size` ones (RFC 6962)."""
        return {"hashes": [base64.b64encode(one).decode() for one in log.inclusion(index, size)]}

    @app.get("/v1/log/consistency", response_model=forms.HashesAnswer)
    def consistency(old: Place, new: Place) -> dict[str, Any]:
        """The proof that the log of `new` entries grew out of the one of `old` (RFC 6962)."""
        return {"hashes": [base64.b64encode(one).decode() for one in log.consistency(old, new)]}


def _add_state(app: FastAPI, parts: Parts, log: LogView) -> None:
    read = parts.queue.read

    @app.get("/v1/licenses/{license}", response_model=forms.LicenseAnswer)
    async def license(license: Id) -> dict[str, Any]:
        """How a license stands."""
        name = bytes.fromhex(license)
        found = await read(lambda state: views.license_fields(state, name))
        if found is None:
            raise _unknown("license")
        return found

    @app.get(
        "/v1/licenses/{license}/file",
        response_class=Response,
        responses={200: {"content": {"application/cbor": {}}}},
    )
    def license_file(license: Id) -> Response:
        """The license file, with both signatures, as `loyal host serve` reads it."""
        found = log.license_file(bytes.fromhex(license))
        if found is None:
            raise _unknown("license")
        return Response(found.to_bytes(), media_type="application/cbor")

    @app.get("/v1/accounts/{party}", response_model=forms.AccountAnswer)
    async def account(party: Id) -> dict[str, Any]:
        """A party's money; zeros for one that nobody knows."""
        return await read(lambda state: views.account_fields(state, bytes.fromhex(party)))

    @app.get("/v1/disputes", response_model=forms.ClaimsAnswer)
    async def disputes(
        license: Annotated[str, Query(pattern="^[0-9a-f]{64}$")],
    ) -> dict[str, Any]:
        """The claims on a license, oldest first."""
        return {"claims": await read(lambda state: views.claims_of(state, bytes.fromhex(license)))}

    @app.get("/v1/disputes/{claim}", response_model=forms.ClaimAnswer)
    async def dispute(claim: Id) -> dict[str, Any]:
        """How a claim stands, with its verdicts."""
        name = bytes.fromhex(claim)

        def view(state: State) -> dict[str, Any] | None:
            one = state.claims.get(name)
            return views.claim_fields(state, name, one) if one is not None else None

        found = await read(view)
        if found is None:
            raise _unknown("claim")
        return found


def _add_vault(app: FastAPI, parts: Parts, log: LogView) -> None:
    signed: dict[str, Any] = {"security": [{"signed": []}]}

    @app.get("/v1/draws/{license}", response_model=forms.DrawAnswer, openapi_extra=signed)
    async def draw(license: Id, request: Request, response: Response) -> dict[str, Any]:
        """The key that is out, for its prover alone."""
        asker, name = _asker(request, parts), bytes.fromhex(license)
        drawn = await parts.queue.read(lambda state: _out_to(state, name, asker, parts.clock()))
        if drawn is None:
            raise Problem(403, "no key is out to this caller", "wait for a draw", "C1")
        response.headers["cache-control"] = "no-store"
        number, until = drawn
        key = _opened(lambda: parts.desk.custodian.key(name, number))
        return {"number": number, "until": until, "key": key}

    @app.get(
        "/v1/claims/{claim}/evidence", response_model=forms.EvidenceAnswer, openapi_extra=signed
    )
    async def evidence(claim: Id, request: Request, response: Response) -> dict[str, Any]:
        """What a claim is checked with, for the verifiers of its electorate, once its leaf is
        open."""
        from starlette.concurrency import run_in_threadpool

        asker, name = _asker(request, parts), bytes.fromhex(claim)
        one: Claim | None = await parts.queue.read(lambda state: state.claims.get(name))
        if one is None or one.opened is None or asker not in dict(one.made.electorate):
            raise Problem(403, "no leaf is open to this caller", "wait for it", "C8")
        response.headers["cache-control"] = "no-store"
        return await run_in_threadpool(_evidence, parts, log, name, one.made.license)


def _evidence(parts: Parts, log: LogView, claim: bytes, license: bytes) -> dict[str, Any]:
    made = log.claim_of(claim)
    assert made is not None
    custodian = parts.desk.custodian
    proof = _opened(lambda: custodian.open(license, made.key))
    return {
        "key": made.key,
        "reply": made.reply,
        "salt": made.salt.hex(),
        "proof": to_base64url(proof),
        "beacon": custodian.beacon(license).hex(),
    }


def _add_watch(app: FastAPI, parts: Parts) -> None:
    @app.get("/health", response_model=forms.HealthAnswer)
    async def health() -> dict[str, Any]:
        """The platform runs and takes steps."""
        length = await parts.queue.read(lambda state: state.length)
        return {"status": "ok", "length": length}


def _asker(request: Request, parts: Parts) -> bytes:
    """Who signed the request. Problem 401."""
    scope = request.scope
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
    query = scope.get("query_string", b"").decode("latin-1")
    target = f"{path}?{query}" if query else path
    try:
        value = request.headers.get("authorization", "")
        return caller(value, request.method, target, parts.clock())
    except ProtocolError as error:
        challenge = (b"www-authenticate", b"Loyal")
        raise Problem(401, str(error), error.hint, "", [challenge]) from None


def _out_to(state: State, name: bytes, asker: bytes, now: int) -> tuple[int, int] | None:
    """Number and end of the draw that is out to this prover."""
    license = state.licenses.get(name)
    if license is None or license.drawn is None or license.closed:
        return None
    drawn = license.drawn
    return (drawn.number, drawn.until) if drawn.prover == asker and now <= drawn.until else None


def _opened(look: Any) -> Any:
    """What the vault says. Problem 404 where it has nothing, without a word of what was asked."""
    try:
        return look()
    except UsageError:
        raise Problem(
            404, "the vault has nothing for this", "ask the platform's operator"
        ) from None


def _unknown(what: str) -> Problem:
    return Problem(404, f"there is no such {what}", "check its id")
