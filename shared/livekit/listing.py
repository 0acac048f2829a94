"""Convert LiveKit's protobuf listings into the structs of its webhooks, which the meter reads."""

from livekit.protocol import egress, ingress, models

from shared.models.livekit_event import (
    EgressInfo,
    IngressInfo,
    IngressState,
    ListedParticipant,
    Present,
    RoomInfo,
    TrackInfo,
)

_EGRESS_TYPES = ("room_composite", "web", "participant", "track_composite", "track")


def room_info(room: models.Room) -> RoomInfo:
    return RoomInfo(
        sid=room.sid,
        name=room.name,
        creation_time=room.creation_time,
        creation_time_ms=room.creation_time_ms,
    )


def participant_info(person: models.ParticipantInfo) -> ListedParticipant:
    return ListedParticipant(
        sid=person.sid,
        identity=person.identity,
        name=person.name,
        kind=_name(models.ParticipantInfo.Kind, person.kind),
        state=_name(models.ParticipantInfo.State, person.state),
        joined_at=person.joined_at,
        joined_at_ms=person.joined_at_ms,
        tracks=tuple(
            TrackInfo(
                sid=track.sid,
                type=_name(models.TrackType, track.type),
                source=_name(models.TrackSource, track.source),
            )
            for track in person.tracks
        ),
    )


def egress_info(info: egress.EgressInfo) -> EgressInfo:
    listed = EgressInfo(
        egress_id=info.egress_id,
        room_name=info.room_name,
        room_id=info.room_id,
        started_at=info.started_at,
        ended_at=info.ended_at,
    )
    kind = info.WhichOneof("request")
    if kind in _EGRESS_TYPES:
        setattr(listed, kind, Present())  # the meter reads only the type of the request
    return listed


def ingress_info(info: ingress.IngressInfo) -> IngressInfo:
    state = info.state
    return IngressInfo(
        ingress_id=info.ingress_id,
        room_name=info.room_name,
        input_type=_name(ingress.IngressInput, info.input_type),
        state=IngressState(started_at=state.started_at, ended_at=state.ended_at, resource_id=state.resource_id),
    )


def _name(enum: type, value: int) -> str:
    """Return the name of an enum value, or its number if a newer LiveKit added it (as protojson does)."""
    try:
        return str(enum.Name(value))  # type: ignore[attr-defined]  # protobuf's enums are wrappers made at run time
    except ValueError:
        return str(value)
