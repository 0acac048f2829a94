"""Answers of `GET /healthz` and `GET /readyz`."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from shared.models.wire import Wire

Check = Annotated[str, Meta(description="`ok`, or what is wrong.", examples=["ok"])]


class Alive(Wire):
    """The process is alive."""

    status: Annotated[Literal["ok"], Meta(description="Always `ok`.")]


class Checks(Wire):
    """The result of each check."""

    postgres: Check
    migrations: Check
    redis: Check
    process: (
        Annotated[
            str,
            Meta(description="Present only while the process stops, or if a part of it failed.", examples=["stopping"]),
        ]
        | UnsetType
    ) = UNSET


class Readiness(Wire):
    """Whether the instance can serve requests."""

    status: Annotated[Literal["ok", "unavailable"], Meta(description="`ok` if every check is `ok`.")]
    checks: Annotated[Checks, Meta(description="For each part: `ok`, or what is wrong.")]
