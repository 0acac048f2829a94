"""Facts that can go wrong, named for what they are. ``services/api/problems.py`` alone turns them into HTTP."""


class RelayError(Exception):
    """Base of all our exceptions. ``str(error)`` is fit to be shown to a user and holds no secret."""


class SettingsInvalid(RelayError):
    """The environment is incomplete or malformed. ``lines`` holds one sentence a variable."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class InvalidRequest(RelayError):
    """The client's input is wrong. ``param`` is the dotted path of the field, as in the JSON sent."""

    def __init__(self, detail: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(detail)
        self.param = param
        self.code = code


class Unauthenticated(RelayError):
    """No key, or one that is not valid. ``code`` tells which."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class PublishableKeyRefused(RelayError):
    """A publishable key names a project and can do nothing else."""


class WebhookRefused(RelayError):
    """A webhook whose signature does not prove that LiveKit sent this body. ``reason`` is snake_case and stable."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class EventNotKept(RelayError):
    """Neither Redis nor Postgres could take an event; LiveKit must send it again."""


class UnfoldableEvent(RelayError):
    """An event that LiveKit signed and the meter cannot use. ``reason`` is snake_case and stable."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class ConcurrentFold(RelayError):
    """Another transaction stored one of our sessions or rooms first; the batch must be repeated from the start."""

    def __init__(self) -> None:
        super().__init__("another transaction stored a session or room of this one first")


class ProjectNotFound(RelayError):
    """No project has this id."""

    def __init__(self, project_id: str) -> None:
        super().__init__(f"there is no project {project_id!r}")
        self.project_id = project_id


class KeyNotFound(RelayError):
    """No API key has this id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id!r}")
        self.key_id = key_id


class ProjectArchived(RelayError):
    """The project is out of use: nothing can be added to it."""

    def __init__(self, project_id: str) -> None:
        super().__init__(f"project {project_id!r} is archived")
        self.project_id = project_id


class KeyInactive(RelayError):
    """What only a working key can do was asked of one that is ``revoked`` or ``expired`` (``state``)."""

    def __init__(self, key_id: str, state: str) -> None:
        super().__init__(f"key {key_id!r} is {state}")
        self.key_id, self.state = key_id, state


class KeyRotated(RelayError):
    """The key has been replaced already; rotate its successor instead."""

    def __init__(self, key_id: str, rotated_to: str) -> None:
        super().__init__(f"key {key_id!r} was replaced by {rotated_to!r} already; rotate that one")
        self.key_id, self.rotated_to = key_id, rotated_to


class TooManyKeys(RelayError):
    """The project has as many working keys of this mode as it may have (``limit``)."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the project has {limit} working keys of this mode, which is the most; revoke some first")
        self.limit = limit


class RateLimited(RelayError):
    """Too many requests. ``headers`` are those of the answer; ``code`` tells which limit it was."""

    def __init__(
        self,
        detail: str,
        retry_after_s: int,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        code: str = "rate_limited",
    ) -> None:
        super().__init__(detail)
        self.retry_after_s, self.headers, self.code = retry_after_s, headers, code


class StoreUnavailable(RelayError):
    """Postgres cannot be reached; the request may be repeated."""


class SetAsideEventNotFound(RelayError):
    """No event with this id is set aside (any more)."""

    def __init__(self, event_id: int) -> None:
        super().__init__(f"no event {event_id} is set aside (it may have been replayed or dismissed)")
        self.event_id = event_id


class LiveKitError(RelayError):
    """LiveKit did not do what was asked of it. Its own words are never passed on: they can hold tokens and names of rooms."""


class LiveKitUnreachable(LiveKitError):
    """No connection to LiveKit, or it broke before there was an answer."""

    def __init__(self) -> None:
        super().__init__("LiveKit cannot be reached; try again shortly")


class LiveKitTimedOut(LiveKitError):
    """LiveKit did not answer in time; what was asked may have happened."""

    def __init__(self) -> None:
        super().__init__("LiveKit did not answer in time; what you asked for may have been done or not")


class LiveKitFailed(LiveKitError):
    """LiveKit answered with an error of its own, or with something that is no answer. ``status`` and ``code`` (Twirp's) are for
    the log."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__("LiveKit could not do this and gave no reason that concerns the request")
        self.status, self.code = status, code


class LiveKitServiceAbsent(LiveKitFailed):
    """This LiveKit runs without its egress or ingress service."""


class LiveKitCredentialsRefused(LiveKitError):
    """LiveKit does not know the key, or the secret or the clock differs."""

    def __init__(self) -> None:
        super().__init__(
            "LiveKit refuses the credentials of this Relay: its LIVEKIT_API_KEY and LIVEKIT_API_SECRET, or its clock, are"
            " not LiveKit's"
        )


class LiveKitRefusedInput(LiveKitError):
    """LiveKit takes the request for invalid, by limits of its own configuration. ``param`` is the field, where it is known."""

    def __init__(self, detail: str, param: str | None = None) -> None:
        super().__init__(detail)
        self.param = param


class LiveKitRefusedState(LiveKitError):
    """LiveKit cannot do this as things are, or as it is configured."""


class RoomNotFound(RelayError):
    """No such room exists in LiveKit now. ``room`` is the name that its project gave it."""

    def __init__(self, room: str) -> None:
        super().__init__(f"there is no room {room!r} at the moment")
        self.room = room


class ParticipantNotFound(RelayError):
    """Nobody of this identity is in the room. ``room`` is the name that its project gave it."""

    def __init__(self, room: str, identity: str) -> None:
        super().__init__(f"there is no participant {identity!r} in room {room!r}")
        self.room, self.identity = room, identity


class SessionNotFound(RelayError):
    """The project has no metered session of this participant sid, in this mode."""

    def __init__(self, sid: str) -> None:
        super().__init__(f"there is no session {sid[:100]!r}")
        self.sid = sid


class TrackNotFound(RelayError):
    """The participant publishes no such track. ``room`` is the name that its project gave it."""

    def __init__(self, room: str, identity: str, track: str) -> None:
        super().__init__(f"participant {identity!r} in room {room!r} publishes no track {track!r}")
        self.room, self.identity, self.track = room, identity, track


class SignUpClosed(RelayError):
    """This instance takes no new accounts without an invitation."""

    def __init__(self) -> None:
        super().__init__("this Relay takes new accounts by invitation only")


class AccountNotFound(RelayError):
    """Nobody has an account with this address."""

    def __init__(self, email: str) -> None:
        super().__init__(f"there is no account with the address {email!r}")


class AddressTaken(RelayError):
    """An account with this e-mail address exists."""

    def __init__(self) -> None:
        super().__init__("there is an account with this address already")


class InvitationUnusable(RelayError):
    """A link that does not exist, was used or withdrawn, or has expired."""

    def __init__(self) -> None:
        super().__init__("this link has been used, was withdrawn or has expired")


class LastOwner(RelayError):
    """A project would be left without anybody who may do everything."""

    def __init__(self) -> None:
        super().__init__("a project needs at least one owner; make somebody else owner first")


class IdempotencyKeyReused(RelayError):
    """The Idempotency-Key came before with another request."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used for another request; a new request needs a new key")


class AttemptUnderWay(RelayError):
    """A request with this Idempotency-Key is being carried out."""

    def __init__(self) -> None:
        super().__init__("a request with this Idempotency-Key is still being carried out; repeat it in a moment")


class ShownOnce(RelayError):
    """The request with this Idempotency-Key made ``what``, and its answer held a secret, which is kept nowhere."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"this request was carried out before and made {what}; its secret was in that answer and is kept nowhere. If you"
            " do not have it, revoke it and make another"
        )
