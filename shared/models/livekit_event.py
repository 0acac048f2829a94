"""LiveKit's webhook payload, the parts the meter uses.

protojson of ``livekit.WebhookEvent`` (livekit/protocol, livekit_webhook.proto): camelCase, int64 as strings, zero values
omitted, enums as names, unknown fields to be ignored. An absent ``kind`` is STANDARD, an absent track ``type`` is AUDIO.
Events are decoded in msgspec's lax mode, which reads ``"1760000000"`` as a number. ``gc=False``: what is decoded has no cycles.

A body may be 8 MiB. Only fields of bounded size are decoded; metadata, lists and requests inside it are skipped, so the
decoded event stays small whatever the body holds.
"""

import msgspec

from shared.models.wire import Wire


class RoomInfo(Wire, gc=False):
    """livekit.Room. ``creation_time`` is unix seconds, ``creation_time_ms`` milliseconds (newer servers)."""

    sid: str = ""
    name: str = ""
    creation_time: int = 0
    creation_time_ms: int = 0


class TrackInfo(Wire, gc=False):
    """livekit.TrackInfo."""

    sid: str = ""
    type: str | int = "AUDIO"
    source: str | int = "UNKNOWN"


class ParticipantInfo(Wire, gc=False):
    """livekit.ParticipantInfo, of which track events carry only sid and identity.

    Its list of tracks is not read from webhooks.
    """

    sid: str = ""
    identity: str = ""
    name: str = ""
    kind: str | int = "STANDARD"
    state: str | int = "JOINING"
    joined_at: int = 0
    joined_at_ms: int = 0
    disconnect_reason: str | int = ""


class ListedParticipant(ParticipantInfo, gc=False):
    """livekit.ParticipantInfo as ListParticipants answers it."""

    tracks: tuple[TrackInfo, ...] = ()


class Present(Wire, gc=False):
    """An object of which only the presence matters. Its content is skipped."""


class EgressInfo(Wire, gc=False):
    """livekit.EgressInfo. Times are unix nanoseconds. The request field that is present tells its type."""

    egress_id: str = ""
    room_name: str = ""
    room_id: str = ""
    started_at: int = 0
    ended_at: int = 0
    room_composite: Present | None = None
    web: Present | None = None
    participant: Present | None = None
    track_composite: Present | None = None
    track: Present | None = None


class IngressState(Wire, gc=False):
    """livekit.IngressState. Times are unix nanoseconds; ``resource_id`` is new for every run."""

    started_at: int = 0
    ended_at: int = 0
    resource_id: str = ""


class IngressInfo(Wire, gc=False):
    """livekit.IngressInfo; an absent ``input_type`` is RTMP_INPUT."""

    ingress_id: str = ""
    room_name: str = ""
    input_type: str | int = "RTMP_INPUT"
    state: IngressState | None = None


class Reconciled(Wire, gc=False):
    """When reconciliation last saw an event's subject, and since when it is missing (unix ms, 0: never)."""

    seen_ms: int = 0
    gone_ms: int = 0


class LiveKitEvent(Wire, gc=False):
    """livekit.WebhookEvent. ``created_at`` is unix seconds, floored."""

    event: str = ""
    id: str = ""
    created_at: int = 0
    room: RoomInfo | None = None
    participant: ParticipantInfo | None = None
    track: TrackInfo | None = None
    egress_info: EgressInfo | None = None
    ingress_info: IngressInfo | None = None


class OwnEvent(LiveKitEvent, gc=False):
    """An event that reconciliation creates from LiveKit's listings. No webhook is read as one."""

    participant: ListedParticipant | None = None
    relay: Reconciled | None = None


# Event names and ids that start like this are Relay's own.
OWN_PREFIX = "relay_"


class _RoutingRoom(Wire):
    name: str = ""


class _RoutingEgress(Wire):
    egress_id: str = ""


class _RoutingIngress(Wire):
    ingress_id: str = ""


class _Routing(Wire):
    room: _RoutingRoom | None = None
    egress_info: _RoutingEgress | None = None
    ingress_info: _RoutingIngress | None = None


_decoder = msgspec.json.Decoder(LiveKitEvent, strict=False)
_own_decoder = msgspec.json.Decoder(OwnEvent, strict=False)
_routing_decoder = msgspec.json.Decoder(_Routing)


def decode_event(body: bytes) -> LiveKitEvent:
    """Read a webhook body.

    Raises ``msgspec.DecodeError`` (``ValidationError`` included) when it is not such an event.
    """
    return _decoder.decode(body)


def decode_own_event(body: bytes) -> OwnEvent:
    """Read an event that reconciliation made. Raises like ``decode_event``."""
    return _own_decoder.decode(body)


def decode_kept_event(body: bytes) -> LiveKitEvent:
    """Read an event that was folded before: a webhook's, or one that reconciliation made.

    Raises like ``decode_event``.
    """
    event = _decoder.decode(body)
    return _own_decoder.decode(body) if event.event.startswith(OWN_PREFIX) else event


def routing_key(body: bytes) -> bytes:
    """Return the key that decides an event's partition: egress id, else ingress id, else room name.

    LiveKit's own queues have the same keys (livekit/protocol, webhook/resource_url_notifier.go). A body that cannot be decoded
    is its own key.
    """
    try:
        routing = _routing_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    if routing.egress_info is not None and routing.egress_info.egress_id:
        return routing.egress_info.egress_id.encode()
    if routing.ingress_info is not None and routing.ingress_info.ingress_id:
        return routing.ingress_info.ingress_id.encode()
    return routing.room.name.encode() if routing.room is not None else b""
