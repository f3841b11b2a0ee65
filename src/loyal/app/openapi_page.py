"""What FastAPI does not know of the platform's OpenAPI page: the permission route, how requests are
signed, and the errors of every route."""

from __future__ import annotations

from typing import Any

from loyal.app import permission_route
from loyal.app.http_forms import ErrorAnswer, ErrorFields

_WORDS = {
    "400": "The request does not have its form.",
    "401": "The request is not signed, or not as it must be.",
    "403": "Not for this caller.",
    "404": "There is no such thing.",
    "408": "Too slow.",
    "413": "Too long.",
    "415": "Compressed.",
    "422": "A rule forbids it.",
    "429": "Too often.",
    "503": "The log cannot be kept or read now; ask again.",
}
_COMMANDS = "/v1/commands"


def complete(page: dict[str, Any]) -> dict[str, Any]:
    """The whole page, of FastAPI's."""
    schemas = page.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    template = "#/components/schemas/{model}"
    schemas["ErrorFields"] = ErrorFields.model_json_schema(ref_template=template)
    schemas["ErrorAnswer"] = {
        "type": "object",
        "description": ErrorAnswer.__doc__,
        "required": ["error"],
        "properties": {"error": {"$ref": "#/components/schemas/ErrorFields"}},
    }
    page["components"]["securitySchemes"] = {
        "host": {"type": "http", "scheme": "bearer", "description": "A host's API key."},
        "signed": {
            "type": "apiKey", "in": "header", "name": "Authorization",
            "description": "`Loyal BASE64URL`: method, path, second (and body), signed.",
        },
    }  # fmt: skip
    for path, methods in page["paths"].items():
        for operation in methods.values():
            _add_errors(path, operation)
    page["paths"][permission_route.PATH] = permission_route.openapi()
    return page


def _add_errors(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    codes = {"429", "503"}
    if operation.get("parameters"):
        codes |= {"400", "404"}
    if path == _COMMANDS:
        codes |= {"400", "408", "413", "415", "422"}
    if "security" in operation:
        codes |= {"401", "403"}
    if path.endswith("/checkpoint"):
        codes.add("404")
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    for code in sorted(codes):
        responses.setdefault(code, {"description": _WORDS[code], "content": problem})
