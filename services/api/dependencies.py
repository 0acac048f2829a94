"""Provide the named dependencies of handlers: shared objects of the process, and parts of the request."""

from collections.abc import Mapping
from typing import Any, Final

from litestar import Request
from litestar.di import NamedDependency, Provide

from shared.infra.clock import Clock
from shared.models.projects import KeyRecord
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock


def shared_dependencies(values: Mapping[str, Any]) -> dict[str, Provide]:
    """Return dependencies with one value for all requests of the process, by name."""
    return {name: _constant(value) for name, value in values.items()}


def _constant(value: Any) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)


def provide_key(request: Request[Any, Any, Any]) -> KeyRecord:
    """Return the key that ``require_secret_key`` admitted."""
    key: KeyRecord = request.scope["relay_key"]  # type: ignore[typeddict-item]  # the guard puts it there
    return key


def provide_params(request: Request[Any, Any, Any]) -> Any:
    """Return the query string as the handler's struct, which ``check_parameters`` has decoded."""
    return request.scope["relay_params"]  # type: ignore[typeddict-item]  # the check puts it there


def provide_project_scope(key: NamedDependency[KeyRecord]) -> Scope:
    """Return the project and mode of the key."""
    return Scope(key.project_id, key.mode)


def provide_usage_clock(clock: NamedDependency[Clock], stale_ms: NamedDependency[int | None]) -> UsageClock:
    """Return the time of the request, and how long an open session counts without a sign."""
    return UsageClock(clock.now_ms(), stale_ms)


# For every route under /v1.
KEY_DEPENDENCIES: Final = {
    "key": Provide(provide_key, sync_to_thread=False),
    "params": Provide(provide_params, sync_to_thread=False),
    "project_scope": Provide(provide_project_scope, sync_to_thread=False),
    "usage_clock": Provide(provide_usage_clock, sync_to_thread=False),
}
