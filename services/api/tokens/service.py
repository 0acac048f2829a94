"""Mint LiveKit access tokens."""

from functools import lru_cache
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict, ParseDict
from livekit.protocol.room import RoomConfiguration

from services.api.tokens.room_config import RoomConfig
from services.api.tokens.schemas import (
    DEFAULT_TTL_S,
    MAX_METADATA_BYTES,
    MAX_TTL_S,
    Grants,
    TokenAnswer,
    TokenRequest,
)
from shared.errors import InvalidRequest
from shared.infra import metrics
from shared.infra.clock import Clock, rfc3339
from shared.infra.ids import livekit_room
from shared.livekit.access_token import TokenSigner
from shared.models.names import MAX_LIVEKIT_NAME_BYTES
from shared.models.projects import KeyRecord

_DEFAULT_GRANTS = Grants()


class Minter:
    """Mints access tokens for one LiveKit."""

    def __init__(self, signer: TokenSigner, livekit_url: str, clock: Clock) -> None:
        self._signer, self._livekit_url, self._clock = signer, livekit_url, clock
        self._minted = {mode: metrics.tokens[mode] for mode in ("live", "test")}

    def mint(self, key: KeyRecord, request: TokenRequest) -> TokenAnswer:
        """Mint a token for a room of the key's project and mode. Raises ``InvalidRequest``."""
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
            expires_at=_rfc3339_of_second(now_s + ttl_s),
        )


@lru_cache(maxsize=256)  # most tokens minted in one second expire in the same second
def _rfc3339_of_second(unix_s: int) -> str:
    return rfc3339(unix_s * 1000)


def token_claims(request: TokenRequest, room: str) -> dict[str, Any]:
    """Build the claims of a token, without issuer and times.

    ``room`` is LiveKit's own name of the room. Raises ``InvalidRequest``.
    """
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
    """Check the size in bytes. The type of the field limits only the number of characters."""
    # A character has at most four bytes, so a short identity needs no count.
    if len(identity) > MAX_LIVEKIT_NAME_BYTES // 4 and len(identity.encode()) > MAX_LIVEKIT_NAME_BYTES:
        raise InvalidRequest(
            f"`identity` is {len(identity.encode())} bytes long in UTF-8. LiveKit accepts at most"
            f" {MAX_LIVEKIT_NAME_BYTES}.",
            "identity",
        )


def _check_size(param: str, size: int) -> None:
    if size > MAX_METADATA_BYTES:
        raise InvalidRequest(f"`{param}` is {size} bytes long. LiveKit accepts at most {MAX_METADATA_BYTES}.", param)


def _room_configuration(given: RoomConfig) -> dict[str, Any]:
    if given.egress is not None:
        # Its paths, buckets and addresses would have no prefix of the project. Everyone who holds the token could read its
        # credentials. Relay cannot check its content, because it can be nested to any depth.
        raise InvalidRequest(
            "`roomConfig.egress` records into storage that all projects of this LiveKit share. Relay does not allow it."
            " Leave it out.",
            "roomConfig.egress",
        )
    return dict(MessageToDict(ParseDict(msgspec.to_builtins(given), RoomConfiguration())))
