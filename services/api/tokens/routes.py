"""Mint a LiveKit access token for one room and one identity: `POST /v1/tokens`."""

from typing import Any

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from services.api.http.access.authentication import Authentication
from services.api.http.decoding import decode_request
from services.api.http.openapi import described
from services.api.http.requests import refuse_query_string, require_json
from services.api.http.serving.hot_routes import HotRoute, header
from services.api.tokens.schemas import TokenAnswer, TokenRequest
from services.api.tokens.service import Minter
from shared.infra.clock import Clock
from shared.models.projects import KeyRecord

PATH = "/v1/tokens"
BODY_LIMIT = 256 * 1024
# The scope's entry for a request whose body is still arriving: the key and the time of its check (unix ms).
_ADMITTED = "relay_admitted"
# A check that is older than this is repeated when the body is complete.
_CHECK_AGAIN_MS = 200
_decoder = msgspec.json.Decoder(TokenRequest)


@post(
    "/tokens",
    operation_id="createToken",
    tags=["tokens"],
    status_code=200,
    summary="Create a LiveKit access token",
    description="The token lets one identity join one room. It carries no right to list, create or administer rooms.",
    opt=described(example={"room": "lobby", "identity": "ada", "ttl": 600}),
)
async def create_token(
    data: JSONBody[TokenRequest], key: NamedDependency[KeyRecord], minter: NamedDependency[Minter]
) -> TokenAnswer:
    """Mint a token. ``token_route`` serves this path in front of the framework, with the same result."""
    return minter.mint(key, data)


def token_route(authentication: Authentication, minter: Minter, clock: Clock) -> HotRoute:
    """Build the fast route of `POST /v1/tokens`.

    Its functions raise what ``Authentication`` raises, ``InvalidRequest`` and ``UnsupportedMediaType``.
    """

    def mint(key: KeyRecord, scope: Any, body: bytes) -> bytes:
        require_json(header(scope, b"content-type"))
        return msgspec.json.encode(minter.mint(key, decode_request(_decoder, body)))

    async def admit(scope: Any) -> None:
        scope[_ADMITTED] = await authentication.token_key(scope), clock.now_ms()

    async def create_token(scope: Any, body: bytes) -> bytes:
        key, admitted_ms = scope[_ADMITTED]
        if not 0 <= clock.now_ms() - admitted_ms < _CHECK_AGAIN_MS:
            key = await authentication.token_key(scope)  # the key may have been revoked while the body arrived
        authentication.count_token(scope, key)
        refuse_query_string(scope)
        return mint(key, scope, body)

    def at_headers(scope: Any) -> bool:
        return authentication.knows_token_key(scope)

    def create_at_once(scope: Any, body: bytes) -> bytes | None:
        key = authentication.admit_known_token(scope)
        return None if key is None else mint(key, scope, body)

    return HotRoute(admit, create_token, at_headers, create_at_once, BODY_LIMIT)
