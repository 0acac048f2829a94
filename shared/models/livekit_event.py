"""LiveKit's webhook payload, the parts the meter uses.

protojson of ``livekit.WebhookEvent`` (livekit/protocol, livekit_webhook.proto): camelCase, int64 as strings, zero values
omitted, enums as names, unknown fields to be ignored. An absent ``kind`` is STANDARD, an absent track ``type`` is AUDIO.
Events are decoded in msgspec's lax mode, which reads ``"1760000000"`` as a number. ``gc=False``: what is decoded has no cycles.
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
    """livekit.ParticipantInfo; track events carry only sid and identity."""

    sid: str = ""
    identity: str = ""
    name: str = ""
    kind: str | int = "STANDARD"
    state: str | int = "JOINING"
    joined_at: int = 0
    joined_at_ms: int = 0
    disconnect_reason: str | int = ""
    tracks: tuple[TrackInfo, ...] = ()


class EgressInfo(Wire, gc=False):
    """livekit.EgressInfo. Times are unix nanoseconds; the field of its request that is there tells its type."""

    egress_id: str = ""
    room_name: str = ""
    room_id: str = ""
    started_at: int = 0
    ended_at: int = 0
    room_composite: dict[str, object] | None = None
    web: dict[str, object] | None = None
    participant: dict[str, object] | None = None
    track_composite: dict[str, object] | None = None
    track: dict[str, object] | None = None


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
    """In events that reconciliation makes of what LiveKit's API listed: when it saw (0: never), and from when it missed."""

    seen_ms: int = 0
    gone_ms: int = 0


class LiveKitEvent(Wire, gc=False):
    """livekit.WebhookEvent. ``created_at`` is unix seconds, floored. ``relay`` is in none that LiveKit sends."""

    event: str = ""
    id: str = ""
    created_at: int = 0
    room: RoomInfo | None = None
    participant: ParticipantInfo | None = None
    track: TrackInfo | None = None
    egress_info: EgressInfo | None = None
    ingress_info: IngressInfo | None = None
    relay: Reconciled | None = None


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
_routing_decoder = msgspec.json.Decoder(_Routing)


def decode_event(body: bytes) -> LiveKitEvent:
    """Reads a webhook body. Raises ``msgspec.DecodeError`` (``ValidationError`` included) when it is not such an event."""
    return _decoder.decode(body)


def routing_key(body: bytes) -> bytes:
    """What decides an event's partition: egress id, else ingress id, else room name, as LiveKit's own queues are keyed
    (livekit/protocol, webhook/resource_url_notifier.go). An undecodable body is its own key: it belongs to nobody."""
    try:
        routing = _routing_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    if routing.egress_info is not None and routing.egress_info.egress_id:
        return routing.egress_info.egress_id.encode()
    if routing.ingress_info is not None and routing.ingress_info.ingress_id:
        return routing.ingress_info.ingress_id.encode()
    return routing.room.name.encode() if routing.room is not None else b""
