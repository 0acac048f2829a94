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


class StoreUnavailable(RelayError):
    """Postgres cannot be reached; the request may be repeated."""


class SetAsideEventNotFound(RelayError):
    """No event with this id is set aside (any more)."""

    def __init__(self, event_id: int) -> None:
        super().__init__(f"no event {event_id} is set aside (it may have been replayed or dismissed)")
        self.event_id = event_id
