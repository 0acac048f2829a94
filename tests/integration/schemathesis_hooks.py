"""Hooks for schemathesis: rules that a schema cannot express, and a check of Relay's error codes."""

from base64 import b64encode
from typing import Any
from uuid import uuid4

import schemathesis

from shared.models.names import MAX_LIVEKIT_NAME_BYTES


@schemathesis.hook
def before_call(_ctx: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]) -> None:
    """Change generated requests that the schema allows but the description forbids.

    These are an unknown cursor, an identity of too many bytes, times in the wrong order or in the past, a recording
    that LiveKit does not know, and the whole number 1.0.
    Some requests get existing names: the test created ``lobby`` and ``ada``.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.query:
        refused = {"cursor", "from", "to"} | ({"order", "limit"} if case.operation.path == "/v1/usage" else set())
        case.query = {name: value for name, value in case.query.items() if name not in refused}
    if case.method != "DELETE" and "{identity}" in case.operation.path and case.path_parameters:
        case.path_parameters = {**case.path_parameters, "name": "lobby", "identity": "ada"}
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = str(uuid4())  # a key that was used for another request is refused
    if isinstance(case.body, dict):
        case.body = _allowed(case.operation.definition.raw["operationId"], _with_whole_numbers(case.body))


def _allowed(operation: str, body: dict[str, Any]) -> dict[str, Any]:
    if operation == "createToken" and isinstance(body.get("roomConfig"), dict):
        body["roomConfig"].pop("egress", None)
    if operation == "createToken" and len(body["identity"].encode()) > MAX_LIVEKIT_NAME_BYTES:
        # A schema counts characters; LiveKit's limit is in bytes. The appended "a" keeps the text from being blank.
        body["identity"] = body["identity"].encode()[: MAX_LIVEKIT_NAME_BYTES - 1].decode(errors="ignore") + "a"
    if operation == "updateParticipant" and all(value is None for value in body.values()):
        body["name"] = "Ada"
    if operation == "muteParticipant":
        body.pop("trackSid", None)
    if operation == "sendData":
        data = body["data"].encode()[:3_000]
        body["data"] = b64encode(data).decode() if body.get("encoding") == "base64" else data.decode(errors="ignore")
    if "expiresAt" in body:
        body["expiresAt"] = None
    return body


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schemathesis.check
def error_code_is_documented(
    _ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that the error ``code``, too, is among the documented examples of the operation's answers."""
    if response.status_code < 400 or not response.headers.get("content-type", [""])[0].startswith(
        "application/problem"
    ):
        return
    code = response.json()["code"]
    answers = case.operation.definition.raw["responses"]
    documented = answers.get(str(response.status_code), {}).get("content", {})
    examples = documented.get("application/problem+json", {}).get("examples", {})
    if code != "method_not_allowed" and code not in examples:
        raise AssertionError(f"{response.status_code} {code} is not documented for {case.operation.label}")
