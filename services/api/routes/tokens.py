"""`POST /v1/tokens`: a LiveKit access token for one room and one identity."""

from typing import Annotated, Any, Literal

import msgspec
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from livekit.protocol.room import RoomConfiguration

from services.api.auth import KeyStore
from services.api.decoding import decode_request
from services.api.hot_routes import Handler, header
from shared import metrics
from shared.clock import Clock, rfc3339
from shared.errors import InvalidRequest
from shared.ids import livekit_room
from shared.livekit.access_token import TokenSigner
from shared.models.wire import Request

PATH = "/v1/tokens"
BODY_LIMIT = 256 * 1024
DEFAULT_TTL_S = 3600
MAX_TTL_S = 21600
# LiveKit's own limit on metadata and on attributes (livekit-server, config.go: max_metadata_size, max_attributes_size).
MAX_METADATA_BYTES = 64_000

# \Z, not $: $ also matches before a trailing line break.
Room = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._:-]{1,128}\Z")]
Identity = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._:@-]{1,128}\Z")]
Source = Literal["camera", "microphone", "screen_share", "screen_share_audio"]


class Grants(Request):
    """An empty ``canPublishSources`` would mean "all" to LiveKit, the opposite of what it says, so it is refused."""

    can_publish: bool = True
    can_subscribe: bool = True
    can_publish_data: bool = True
    can_publish_sources: Annotated[list[Source], msgspec.Meta(min_length=1)] | None = None
    can_update_own_metadata: bool | None = None
    hidden: bool | None = None


class TokenRequest(Request):
    """``ttl`` in seconds; more than ``MAX_TTL_S`` is lowered to it."""

    room: Room
    identity: Identity
    name: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    ttl: Annotated[int, msgspec.Meta(ge=1)] | None = None
    metadata: str | None = None
    attributes: dict[str, str] | None = None
    grants: Grants | None = None
    room_config: dict[str, Any] | None = None


_DEFAULT_GRANTS = Grants()
_decoder = msgspec.json.Decoder(TokenRequest)
# Fields of RoomConfiguration's egress that hold or point to credentials (livekit/protocol, livekit_egress.proto).
_CREDENTIALS = {
    "access_key", "secret", "session_token", "credentials", "account_key", "assume_role_arn", "assume_role_external_id",
    "urls", "token", "password", "signing_key",
}  # fmt: skip


def token_handler(keys: KeyStore, signer: TokenSigner, livekit_url: str, clock: Clock) -> Handler:
    """Raises what ``KeyStore.authenticate`` raises, and ``InvalidRequest``."""

    minted = {mode: metrics.tokens[mode] for mode in ("live", "test")}

    async def create_token(scope: Any, body: bytes) -> bytes:
        key = await keys.authenticate(header(scope, b"authorization"))
        request = decode_request(_decoder, body)
        room = livekit_room(key.project_id, key.mode, request.room)
        now_s = clock.now_ms() // 1000
        ttl_s = min(request.ttl or DEFAULT_TTL_S, MAX_TTL_S)
        answer = {
            "token": signer.sign(token_claims(request, room), now_s=now_s, ttl_s=ttl_s),
            "url": livekit_url,
            "room": room,
            "identity": request.identity,
            "expiresAt": rfc3339((now_s + ttl_s) * 1000),
        }
        minted[key.mode].count += 1
        return msgspec.json.encode(answer)

    return create_token


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


def _check_size(param: str, size: int) -> None:
    if size > MAX_METADATA_BYTES:
        raise InvalidRequest(f"{param} is {size} bytes long; LiveKit takes {MAX_METADATA_BYTES}", param)


def _room_configuration(given: dict[str, Any]) -> dict[str, Any]:
    try:
        configuration = ParseDict(given, RoomConfiguration())
    except ParseError as error:
        raise InvalidRequest(f"roomConfig is no LiveKit RoomConfiguration: {error}", "roomConfig") from None
    _refuse_credentials(configuration, "roomConfig")
    return dict(MessageToDict(configuration))


def _refuse_credentials(message: Any, path: str) -> None:
    """A token is readable by whoever holds it: no secret belongs into one."""
    for field, value in message.ListFields():
        where = f"{path}.{field.json_name}"
        if field.name in _CREDENTIALS:
            raise InvalidRequest(
                f"{where} would put a credential into a token that participants can read; configure it in LiveKit",
                where,
            )
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for item in value if field.is_repeated else (value,):
                _refuse_credentials(item, where)
