"""Errors of API keys and projects."""

from shared.errors.base import Code, RelayError


class Unauthenticated(RelayError):
    """The request has no key or an invalid one. ``code`` says which."""

    status = 401
    codes = (
        Code(
            "missing_key",
            "The request has no `Authorization: Bearer …` header.",
            "Send your API key as `Authorization: Bearer sk_…`.",
        ),
        Code(
            "malformed_key",
            "This is not an API key of Relay.",
            "This is not a Relay API key. One starts with sk_live_ or sk_test_.",
        ),
        Code(
            "mistyped_key",
            "The key has the right form and a wrong checksum.",
            "This API key is mistyped or cut off: its checksum is wrong.",
        ),
        Code(
            "unknown_key",
            "The key has the right form, but this instance does not have it.",
            "This instance has no such API key.",
        ),
        Code("revoked_key", "The key is revoked.", "This API key is revoked."),
        Code("expired_key", "The key has expired.", "This API key has expired."),
        Code("archived_project", "The key's project is archived.", "The project of this API key is archived."),
    )

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail, code=code, headers=(("www-authenticate", 'Bearer realm="relay"'),))


class PublishableKeyRefused(RelayError):
    """A publishable key only names its project."""

    status = 403
    codes = (
        Code(
            "publishable_key",
            "A `pk_…` key only names its project.",
            "A publishable key only names its project. Use a secret key (sk_…) from your server.",
        ),
    )


class ProjectNotFound(RelayError):
    """No project has this id."""

    def __init__(self, project_id: str) -> None:
        super().__init__(f"No project has the id {project_id!r}.")
        self.project_id = project_id


class ProjectArchived(RelayError):
    """The project is archived, so nothing can be added to it."""

    status = 409
    codes = (
        Code(
            "project_archived",
            "The project is archived. Nothing can be added to it.",
            "Project 'k3v9x2m7q4w8t6na' is archived. Restore it first.",
        ),
    )

    def __init__(self, project_id: str) -> None:
        super().__init__(f"Project {project_id!r} is archived. Restore it first.")
        self.project_id = project_id


class KeyNotFound(RelayError):
    """No API key has this id."""

    status = 404
    codes = (
        Code(
            "key_not_found",
            "The project has no API key with this id.",
            "No API key has the id 'h7q2m9x4k8t6w3na'.",
        ),
    )

    def __init__(self, key_id: str) -> None:
        super().__init__(f"No API key has the id {key_id!r}.")
        self.key_id = key_id


class KeyInactive(RelayError):
    """The action needs a usable key, but this one is ``revoked`` or ``expired`` (``state``)."""

    status = 409
    codes = (
        Code(
            "key_inactive",
            "The key is revoked or expired. Only a working key can do this.",
            "Key 'h7q2m9x4k8t6w3na' is revoked. Only a working key can do this.",
        ),
    )

    def __init__(self, key_id: str, state: str) -> None:
        super().__init__(f"Key {key_id!r} is {state}. Only a working key can do this.")
        self.key_id, self.state = key_id, state


class KeyRotated(RelayError):
    """The key has a successor already. Rotate that one."""

    status = 409
    codes = (
        Code(
            "key_already_rotated",
            "The key has a successor already. Rotate that one.",
            "Key 'n4t8w2x6q7m3k9ha' replaced key 'h7q2m9x4k8t6w3na'. Rotate that one.",
        ),
    )

    def __init__(self, key_id: str, rotated_to: str) -> None:
        super().__init__(f"Key {rotated_to!r} replaced key {key_id!r}. Rotate that one.")
        self.key_id, self.rotated_to = key_id, rotated_to


class TooManyKeys(RelayError):
    """The project already has ``limit`` usable keys of this mode."""

    status = 409
    codes = (
        Code(
            "too_many_keys",
            "The project has as many working keys as it may have.",
            "The project has 100 working keys of this mode and may have no more. Revoke some first.",
        ),
    )

    def __init__(self, limit: int) -> None:
        super().__init__(f"The project has {limit} working keys of this mode and may have no more. Revoke some first.")
        self.limit = limit
