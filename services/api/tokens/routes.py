"""`POST /v1/tokens`: a LiveKit access token for one room and one identity."""

from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from google.protobuf.json_format import MessageToDict, ParseDict
from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from livekit.protocol.room import RoomConfiguration

from services.api.http.access.authentication import Authentication
from services.api.http.decoding import decode_request
from services.api.http.openapi import described
from services.api.http.requests import refuse_query_string, require_json
from services.api.http.serving.hot_routes import HotRoute, header
from services.api.tokens.room_config import RoomConfig
from shared.errors import InvalidRequest
from shared.infra import metrics
from shared.infra.clock import Clock, rfc3339
from shared.infra.ids import livekit_room
from shared.livekit.access_token import TokenSigner
from shared.models.names import MAX_LIVEKIT_NAME_BYTES, Identity, RoomName, Timestamp
from shared.models.projects import KeyRecord
from shared.models.wire import Request, Wire

PATH = "/v1/tokens"
BODY_LIMIT = 256 * 1024
DEFAULT_TTL_S = 3600
MAX_TTL_S = 21600
# The key and the unix ms of its check, in the scope of a request whose body is being read; and for how long the check holds.
_ADMITTED = "relay_admitted"
_CHECK_AGAIN_MS = 200
# LiveKit's own limit on metadata and on attributes (livekit-server, config.go: max_metadata_size, max_attributes_size).
MAX_METADATA_BYTES = 64_000

Source = Literal["camera", "microphone", "screen_share", "screen_share_audio"]


class Grants(Request):
    """What the participant may do in the room."""

    can_publish: Annotated[bool, msgspec.Meta(description="Publish audio and video.")] = True
    can_subscribe: Annotated[bool, msgspec.Meta(description="Receive what others publish.")] = True
    can_publish_data: Annotated[bool, msgspec.Meta(description="Send data messages.")] = True
    # An empty list would mean "all" to LiveKit, the opposite of what it says, so it is refused.
    can_publish_sources: (
        Annotated[
            list[Source],
            msgspec.Meta(
                min_length=1,
                description="Only these sources may be published. Not empty: to allow none, set `canPublish` to false.",
                examples=[["microphone"]],
            ),
        ]
        | None
    ) = None
    can_update_own_metadata: (
        Annotated[bool, msgspec.Meta(description="Change their own name, metadata and attributes.")] | None
    ) = None
    hidden: Annotated[bool, msgspec.Meta(description="Invisible to the others. Still metered.")] | None = None


class TokenRequest(Request):
    """Who may join which room, and how."""

    room: RoomName
    identity: Identity
    name: Annotated[str, msgspec.Meta(max_length=256, description="Shown to the others.", examples=["Ada"])] | None = (
        None
    )
    ttl: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1,
                description="Seconds in which the token can be used to join. More than 21600 (six hours) is lowered to that.",
                extra_json_schema={"default": DEFAULT_TTL_S},
                examples=[600],
            ),
        ]
        | None
    ) = None
    metadata: (
        Annotated[
            str,
            msgspec.Meta(
                max_length=MAX_METADATA_BYTES,
                description="Opaque; seen by everyone in the room. At most 64,000 bytes in UTF-8.",
            ),
        ]
        | None
    ) = None
    attributes: (
        Annotated[
            dict[str, str],
            msgspec.Meta(
                description="Key-value pairs, seen by everyone in the room. At most 64,000 bytes in UTF-8, keys included.",
                examples=[{"role": "host"}],
            ),
        ]
        | None
    ) = None
    grants: Grants | None = None
    room_config: RoomConfig | None = None


class TokenAnswer(Wire):
    """A LiveKit access token, and what to use it with."""

    token: Annotated[
        str, msgspec.Meta(description="JWT for LiveKit's client SDKs.", examples=["eyJhbGciOiJIUzI1NiIs…"])
    ]
    url: Annotated[str, msgspec.Meta(description="LiveKit's address.", examples=["wss://livekit.example.com"])]
    room: Annotated[
        str, msgspec.Meta(description="LiveKit's own name of the room.", examples=["p_k3v9x2m7q4w8t6na__lobby"])
    ]
    identity: Identity
    expires_at: Timestamp


_DEFAULT_GRANTS = Grants()
_decoder = msgspec.json.Decoder(TokenRequest)


@lru_cache(maxsize=256)  # most tokens of a second end in the same second
def _at(unix_s: int) -> str:
    return rfc3339(unix_s * 1000)


class Minter:
    """Makes tokens for one LiveKit."""

    def __init__(self, signer: TokenSigner, livekit_url: str, clock: Clock) -> None:
        self._signer, self._livekit_url, self._clock = signer, livekit_url, clock
        self._minted = {mode: metrics.tokens[mode] for mode in ("live", "test")}

    def mint(self, key: KeyRecord, request: TokenRequest) -> TokenAnswer:
        """Raises ``InvalidRequest``."""
        room = livekit_room(key.project_id, key.mode, request.room)
        now_s = self._clock.now_ms() // 1000
        ttl_s = min(request.ttl or DEFAULT_TTL_S, MAX_TTL_S)
        token = self._signer.sign(token_claims(request, room), now_s=now_s, ttl_s=ttl_s)
        self._minted[key.mode].count += 1
        return TokenAnswer(
            token=token,
            url=self._livekit_url,
            room=room,
            identity=request.identity,
            expires_at=_at(now_s + ttl_s),
        )


@post(
    "/tokens",
    operation_id="createToken",
    tags=["tokens"],
    status_code=200,
    summary="Make a LiveKit access token",
    description="For one identity and one room. The token carries no other right: it cannot list, create or administer.",
    opt=described(example={"room": "lobby", "identity": "ada", "ttl": 600}),
)
async def create_token(
    data: JSONBody[TokenRequest], key: NamedDependency[KeyRecord], minter: NamedDependency[Minter]
) -> TokenAnswer:
    """Described here, and answered by ``token_route`` in front of the framework; all do the same."""
    return minter.mint(key, data)


def token_route(authentication: Authentication, minter: Minter, clock: Clock) -> HotRoute:
    """Raises what ``Authentication`` raises, ``InvalidRequest`` and ``UnsupportedMediaType``."""

    def mint(key: KeyRecord, scope: Any, body: bytes) -> bytes:
        require_json(header(scope, b"content-type"))
        return msgspec.json.encode(minter.mint(key, decode_request(_decoder, body)))

    async def admit(scope: Any) -> None:
        scope[_ADMITTED] = await authentication.token_key(scope), clock.now_ms()

    async def create_token(scope: Any, body: bytes) -> bytes:
        key, admitted_ms = scope[_ADMITTED]
        if not 0 <= clock.now_ms() - admitted_ms < _CHECK_AGAIN_MS:
            key = await authentication.token_key(scope)  # it may have been revoked while the body came
        authentication.count_token(scope, key)
        refuse_query_string(scope)
        return mint(key, scope, body)

    def at_headers(scope: Any) -> bool:
        return authentication.knows_token_key(scope)

    def create_at_once(scope: Any, body: bytes) -> bytes | None:
        key = authentication.admit_known_token(scope)
        return None if key is None else mint(key, scope, body)

    return HotRoute(admit, create_token, at_headers, create_at_once, BODY_LIMIT)


def token_claims(request: TokenRequest, room: str) -> dict[str, Any]:
    """The claims for LiveKit's room ``room``, except who signs and when. Raises ``InvalidRequest``."""
    grants = request.grants or _DEFAULT_GRANTS
    video: dict[str, Any] = {
        "roomJoin": True,
        "room": room,
        "canPublish": grants.can_publish,
        "canSubscribe": grants.can_subscribe,
        "canPublishData": grants.can_publish_data,
    }
    if grants.can_publish_sources is not None:
        video["canPublishSources"] = grants.can_publish_sources
    if grants.can_update_own_metadata is not None:
        video["canUpdateOwnMetadata"] = grants.can_update_own_metadata
    if grants.hidden is not None:
        video["hidden"] = grants.hidden
    _check_identity(request.identity)
    claims: dict[str, Any] = {"sub": request.identity, "video": video}
    if request.name:
        claims["name"] = request.name
    if request.metadata:
        _check_size("metadata", len(request.metadata.encode()))
        claims["metadata"] = request.metadata
    if request.attributes:
        _check_size("attributes", sum(len(k.encode()) + len(v.encode()) for k, v in request.attributes.items()))
        claims["attributes"] = request.attributes
    if request.room_config:
        claims["roomConfig"] = _room_configuration(request.room_config)
    return claims


def _check_identity(identity: str) -> None:
    """The type limits characters. A character has at most four bytes, so short identities need no count."""
    if len(identity) > MAX_LIVEKIT_NAME_BYTES // 4 and len(identity.encode()) > MAX_LIVEKIT_NAME_BYTES:
        size = len(identity.encode())
        raise InvalidRequest(
            f"identity is {size} bytes long in UTF-8; LiveKit takes {MAX_LIVEKIT_NAME_BYTES}", "identity"
        )


def _check_size(param: str, size: int) -> None:
    if size > MAX_METADATA_BYTES:
        raise InvalidRequest(f"{param} is {size} bytes long; LiveKit takes {MAX_METADATA_BYTES}", param)


def _room_configuration(given: RoomConfig) -> dict[str, Any]:
    if given.egress is not None:
        # Its paths, buckets, page and webhook addresses are LiveKit's own, no room name stands before them, and its
        # credentials would be readable by whoever holds the token. Not even looked into: it can be nested at will.
        raise InvalidRequest(
            "roomConfig.egress would record into storage that all projects of this LiveKit share, which a project's key"
            " cannot allow",
            "roomConfig.egress",
        )
    return dict(MessageToDict(ParseDict(msgspec.to_builtins(given), RoomConfiguration())))
