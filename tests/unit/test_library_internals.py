"""The private parts of libraries that Relay uses, each behind one module, are unchanged."""

import ast
import asyncio
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import dramatiq
import httpx
import pytest
from dramatiq.asyncio import EventLoopThread
from dramatiq.brokers import redis as dramatiq_redis
from litestar import Litestar, get
from litestar._kwargs.kwargs_model import KwargsModel
from litestar.di import NamedDependency, Provide
from litestar.routes import HTTPRoute
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from yoyo.backends.base import DatabaseBackend
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend

from services.api.http import litestar_internals
from services.api.http.litestar_internals import resolve_dependencies_in_sequence
from shared.infra.migrations import yoyo_backend
from shared.infra.postgres import asyncpg_internals
from shared.infra.redis import dramatiq_internals, redis_batch

ROOT = Path(__file__).resolve().parents[2]
# How many parts of the version the module names and pyproject.toml bounds: 1 is the major version, 2 the minor one.
BEHIND: dict[str, tuple[ModuleType, int]] = {
    "asyncpg": (asyncpg_internals, 2),
    "dramatiq": (dramatiq_internals, 2),
    "litestar": (litestar_internals, 2),
    "redis": (redis_batch, 1),
    "yoyo-migrations": (yoyo_backend, 2),
}
# Documented names that look private: those of named tuples, and `os._exit`.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}


def requirement(package: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = [text for text in project["dependencies"] if re.match(rf"{package}\b(?!-)", text)]
    return str(found)


@pytest.mark.parametrize("package", BEHIND)
def test_library_version_is_bounded_and_named_in_its_module(package: str) -> None:
    module, parts = BEHIND[package]
    installed = version(package).split(".")[:parts]
    bound = re.search(r">=[0-9.]+,<([0-9.]+)", requirement(package))
    assert bound is not None
    above = [*installed[:-1], str(int(installed[-1]) + 1)]
    assert bound[1] == ".".join(above), "the bound must exclude the first version that nobody has read"
    named = re.search(
        rf"{'yoyo' if package.startswith('yoyo') else package}(-py)? ([0-9.]*[0-9])", str(module.__doc__), re.I
    )
    assert named is not None
    assert named[2] == ".".join(installed), "read the new version's code, then name it in the module"


def test_asyncpg_connection_still_has_its_transport_attribute() -> None:
    assert "_transport" in asyncpg.Connection.__slots__
    assert "def terminate" in inspect.getsource(asyncpg.Connection)


def test_yoyo_still_connects_through_the_overridden_methods() -> None:
    constructor = inspect.getsource(DatabaseBackend.__init__)
    assert "self._connection = self.connect(dburi)" in constructor
    assert "self.init_connection(self._connection)" in constructor
    assert "self.init_connection(self.connection)" in inspect.getsource(DatabaseBackend.rollback)
    assert "self.__class__(self.uri, self.migration_table)" in inspect.getsource(DatabaseBackend.copy)
    assert "self.uri.database" in inspect.getsource(DatabaseBackend.list_tables)
    assert PostgresqlPsycopgBackend.driver_module == "psycopg"
    assert {"init_database", "break_lock", "lock", "to_apply", "apply_migrations"} <= set(dir(DatabaseBackend))


def test_dramatiq_internals_used_by_relay_are_unchanged() -> None:
    script = (Path(str(dramatiq_redis.__file__)).parent / "redis" / "dispatch.lua").read_text(encoding="utf-8")
    assert "-- $namespace:$queue_name.XQ\n--   A sorted set" in script
    assert "self.namespace = namespace" in inspect.getsource(dramatiq_redis.RedisBroker.__init__)
    worker = inspect.getsource(dramatiq.Worker.__init__)
    assert "self.workers:" in worker
    assert "self.consumers:" in worker
    assert "self.loop = asyncio.new_event_loop()" in inspect.getsource(EventLoopThread.__init__)
    assert list(inspect.signature(EventLoopThread.run_coroutine).parameters) == ["self", "coro"]
    # Only this error keeps the worker from starting.
    assert "except MiddlewareError:\n                raise" in inspect.getsource(dramatiq.Broker.emit_before)


def test_redis_py_internals_used_by_relay_are_unchanged() -> None:
    assert {"timeout"} <= set(inspect.signature(AbstractConnection.read_response).parameters)
    assert list(inspect.signature(AbstractConnection.send_packed_command).parameters)[1] == "command"
    assert list(inspect.signature(Retry.call_with_retry).parameters)[1:3] == ["do", "fail"]
    assert {"get_connection", "release"} <= set(dir(ConnectionPool))
    for client in (Redis, RedisCluster):
        assert list(inspect.signature(client.set_response_callback).parameters) == ["self", "command", "callback"]
    assert "self.response_callbacks[command_name](response, **options)" in inspect.getsource(Redis.parse_response)
    assert "self.response_callbacks[command](response, **kwargs)" in inspect.getsource(ClusterNode.parse_response)
    assert {"initialize", "get_nodes"} <= set(dir(RedisCluster))
    assert "self.name = " in inspect.getsource(ClusterNode.__init__)
    assert '"target_nodes"' in inspect.getsource(RedisCluster.execute_command)


def test_litestar_internals_used_by_relay_are_unchanged() -> None:
    resolve = inspect.getsource(KwargsModel.resolve_dependencies)
    assert (
        "for batch in self.dependency_batches:\n            if len(batch) == 1:\n                await resolve"
        in resolve
    )
    assert "self.route_handler_map[http_method] = (route_handler, kwargs_model)" in inspect.getsource(
        HTTPRoute.create_handler_map
    )


@pytest.mark.parametrize("in_sequence", [True, False])
async def test_dependencies_in_sequence_run_in_the_task_of_the_request(in_sequence: bool) -> None:
    tasks: list[object] = []

    async def provide(value: int) -> int:
        tasks.append(asyncio.current_task())
        return value

    async def provide_one() -> int:
        return await provide(1)

    async def provide_two() -> int:
        return await provide(2)

    async def provide_sum(one: NamedDependency[int], two: NamedDependency[int]) -> int:
        return await provide(one + two)

    @get("/", dependencies={"one": Provide(provide_one), "two": Provide(provide_two), "total": Provide(provide_sum)})
    async def handler(one: NamedDependency[int], two: NamedDependency[int], total: NamedDependency[int]) -> list[int]:
        tasks.append(asyncio.current_task())
        return [one, two, total]

    app = Litestar([handler], openapi_config=None)
    if in_sequence:
        resolve_dependencies_in_sequence(app)
    application: Any = app  # httpx has another type for it
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://relay") as client:
        assert (await client.get("/")).json() == [1, 2, 3]
    assert len(set(tasks)) == (1 if in_sequence else 3)


def private_attributes(text: str) -> list[str]:
    """Attributes with a leading underscore that belong to no ``self``, ``cls`` or class of this module."""
    tree = ast.parse(text)
    own = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match(r"_[a-z]", node.attr)
        and node.attr not in own | DOCUMENTED
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]


def test_sources_use_no_other_private_attribute_of_a_library() -> None:
    found = {
        str(path.relative_to(ROOT)): private
        for folder in ("shared", "services")
        for path in (ROOT / folder).rglob("*.py")
        if (private := private_attributes(path.read_text(encoding="utf-8")))
    }
    assert found == {"shared/infra/postgres/asyncpg_internals.py": ["conn._transport"]}


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("conn._transport.close()", ["conn._transport"]),
        ("import uvicorn\nuvicorn.config._x = 1", ["uvicorn.config._x"]),
        ("class A:\n    def _f(self, other):\n        return other._f() + self._f()", []),
        ("row._asdict()", []),
        ("value.__dict__", []),
    ],
)
def test_private_attribute_of_a_library_is_detected(text: str, private: list[str]) -> None:
    assert private_attributes(text) == private


def test_library_internals_are_imported_only_by_their_modules() -> None:
    allowed = {
        r"^from yoyo\b|^import yoyo\b": {
            "shared/infra/migrations/yoyo_backend.py",
            "shared/infra/migrations/migrate.py",
            "shared/infra/migrations/earlier_migrations.py",
        },
        r"dramatiq\.(asyncio|common|worker)\b": {"shared/infra/redis/dramatiq_internals.py"},
        r"hiredis\.|redis\.(asyncio\.)?connection\b|redis\.asyncio\.client|set_response_callback": {
            "shared/infra/redis/redis_batch.py"
        },
    }
    for pattern, modules in allowed.items():
        found = {
            str(path.relative_to(ROOT))
            for folder in ("shared", "services")
            for path in (ROOT / folder).rglob("*.py")
            if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
        }
        assert found == modules, pattern
