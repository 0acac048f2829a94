"""Convert LiveKit's protobuf messages to the answers of the rooms API."""

from typing import Any, Final

from livekit.protocol import models

from services.api.participants.schemas import ParticipantAnswer, PermissionAnswer, Source, TrackAnswer
from services.api.rooms.schemas import RoomAnswer, RoomDetails
from shared.infra.clock import rfc3339

LIVEKIT_SOURCE: Final[dict[Source, "models.TrackSource"]] = {
    "camera": models.TrackSource.CAMERA,
    "microphone": models.TrackSource.MICROPHONE,
    "screen_share": models.TrackSource.SCREEN_SHARE,
    "screen_share_audio": models.TrackSource.SCREEN_SHARE_AUDIO,
}


def _word(enum: Any, number: int) -> Any:
    """Return LiveKit's name of an enum value in lower case, or "unknown" for a value of a newer LiveKit."""
    return enum.Name(number).lower() if number in enum.values() else "unknown"


def joined_ms(person: models.ParticipantInfo) -> int:
    """Return when a participant joined (unix ms). Older servers send whole seconds only."""
    return person.joined_at_ms or person.joined_at * 1000


def room_answer(found: models.Room, display: str) -> RoomAnswer:
    """Return the answer for a room. ``display``: its name within the project."""
    return RoomAnswer(**_fields(found, display))


def room_details(found: models.Room, display: str, people: list[models.ParticipantInfo]) -> RoomDetails:
    """Return the answer for a room with its participants. Their number does not include recorders."""
    fields = _fields(found, display)
    fields["num_participants"] = sum(person.kind != models.ParticipantInfo.Kind.EGRESS for person in people)
    return RoomDetails(**fields, participants=[participant_answer(person) for person in people])


def _fields(found: models.Room, display: str) -> dict[str, Any]:
    return {
        "room": display,
        "sid": found.sid,
        "num_participants": found.num_participants,
        "num_publishers": found.num_publishers,
        "max_participants": found.max_participants,
        "empty_timeout": found.empty_timeout,
        "departure_timeout": found.departure_timeout,
        "metadata": found.metadata,
        "created_at": rfc3339(found.creation_time_ms or found.creation_time * 1000),
        "active_recording": found.active_recording,
    }


def participant_answer(person: models.ParticipantInfo) -> ParticipantAnswer:
    allowed = person.permission
    return ParticipantAnswer(
        identity=person.identity,
        sid=person.sid,
        name=person.name,
        kind=_word(models.ParticipantInfo.Kind, person.kind),
        state=_word(models.ParticipantInfo.State, person.state),
        metadata=person.metadata,
        attributes=dict(person.attributes),
        joined_at=rfc3339(joined_ms(person)),
        is_publisher=person.is_publisher,
        permission=PermissionAnswer(
            can_publish=allowed.can_publish,
            can_subscribe=allowed.can_subscribe,
            can_publish_data=allowed.can_publish_data,
            can_publish_sources=[_word(models.TrackSource, source) for source in allowed.can_publish_sources],
            can_update_own_metadata=allowed.can_update_metadata,
            hidden=allowed.hidden,
        ),
        tracks=[track_answer(track) for track in person.tracks],
    )


def track_answer(track: models.TrackInfo) -> TrackAnswer:
    return TrackAnswer(
        sid=track.sid,
        type=_word(models.TrackType, track.type),
        source=_word(models.TrackSource, track.source),
        name=track.name,
        muted=track.muted,
        mime_type=track.mime_type,
        width=track.width,
        height=track.height,
        simulcast=track.simulcast,
    )
