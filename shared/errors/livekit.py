"""Errors of LiveKit, and of rooms, participants and tracks that do not exist in it."""

from shared.errors.base import Code, RelayError


class LiveKitError(RelayError):
    """LiveKit did not carry out a request.

    Its own messages are never passed on, because they can hold tokens and room names.
    """


class LiveKitUnreachable(LiveKitError):
    """No connection to LiveKit, or it broke before the answer."""

    status = 502
    codes = (
        Code(
            "livekit_unreachable",
            "Relay cannot reach LiveKit.",
            "Relay cannot reach LiveKit. Try again shortly.",
        ),
    )

    def __init__(self) -> None:
        super().__init__("Relay cannot reach LiveKit. Try again shortly.")


class LiveKitTimedOut(LiveKitError):
    """LiveKit did not answer in time. It may have carried out the request."""

    status = 504
    codes = (
        Code(
            "livekit_timeout",
            "LiveKit did not answer in time. It may have carried out the request.",
            "LiveKit did not answer in time. It may have carried out the request.",
        ),
    )

    def __init__(self) -> None:
        super().__init__("LiveKit did not answer in time. It may have carried out the request.")


class LiveKitFailed(LiveKitError):
    """LiveKit answered with an internal error, or with something that is not an answer.

    ``livekit_status`` and ``livekit_code`` (Twirp's) are for the log.
    """

    status = 502
    codes = (
        Code(
            "livekit_failed",
            "LiveKit failed and gave no reason that concerns the request.",
            "LiveKit failed and gave no reason that concerns the request.",
        ),
    )

    def __init__(self, livekit_status: int, livekit_code: str) -> None:
        super().__init__("LiveKit failed and gave no reason that concerns the request.")
        self.livekit_status, self.livekit_code = livekit_status, livekit_code


class LiveKitAnswerTooLarge(LiveKitFailed):
    """An answer of LiveKit exceeds the limit (shared/livekit/bounded_answers.py) and was discarded."""

    def __init__(self) -> None:
        super().__init__(200, "too_large")
        self.args = ("LiveKit's answer is larger than Relay reads. Ask for less, for example for one room.",)


class LiveKitServiceAbsent(LiveKitFailed):
    """This LiveKit runs without its egress or ingress service."""


class LiveKitCredentialsRefused(LiveKitError):
    """LiveKit does not know the key, or the secret or the clock differs."""

    status = 502
    codes = (
        Code(
            "livekit_credentials",
            "LiveKit refuses the credentials of this instance.",
            "LiveKit refuses the credentials of this instance. Compare LIVEKIT_API_KEY, LIVEKIT_API_SECRET and the clocks.",
        ),
    )

    def __init__(self) -> None:
        super().__init__(
            "LiveKit refuses the credentials of this instance. Compare LIVEKIT_API_KEY, LIVEKIT_API_SECRET and the clocks."
        )


class LiveKitRefusedInput(LiveKitError):
    """LiveKit refuses the request because of a limit in its configuration. ``param``: the field, if known."""

    status = 400
    codes = (
        Code(
            "livekit_refused",
            "A limit in the configuration of LiveKit forbids this request.",
            "LiveKit takes this for invalid.",
        ),
    )

    def __init__(self, detail: str, param: str | None = None) -> None:
        super().__init__(detail, param=param)


class LiveKitRefusedState(LiveKitError):
    """LiveKit cannot do this in the present state, or with its configuration."""

    status = 409
    codes = (
        Code(
            "livekit_conflict",
            "LiveKit cannot do this in the present state, or with its configuration.",
            "LiveKit cannot do this at the moment.",
        ),
    )


class RoomNotFound(RelayError):
    """No such room is open. ``room`` is its name within the project."""

    status = 404
    codes = (Code("room_not_found", "No such room is open.", "Room 'lobby' is not open."),)

    def __init__(self, room: str) -> None:
        super().__init__(f"Room {room!r} is not open.")
        self.room = room


class ParticipantNotFound(RelayError):
    """No participant of the room has this identity. ``room`` is its name within the project."""

    status = 404
    codes = (
        Code(
            "participant_not_found",
            "No participant of the room has this identity.",
            "Room 'lobby' has no participant 'ada'.",
        ),
    )

    def __init__(self, room: str, identity: str) -> None:
        super().__init__(f"Room {room!r} has no participant {identity!r}.")
        self.room, self.identity = room, identity


class TrackNotFound(RelayError):
    """The participant publishes no such track. ``room`` is its name within the project."""

    status = 404
    codes = (
        Code(
            "track_not_found",
            "The participant publishes no such track.",
            "Participant 'ada' in room 'lobby' publishes no track 'TR_AMkzBpT6ZgTqQp'.",
        ),
    )

    def __init__(self, room: str, identity: str, track: str) -> None:
        super().__init__(f"Participant {identity!r} in room {room!r} publishes no track {track!r}.")
        self.room, self.identity, self.track = room, identity, track
