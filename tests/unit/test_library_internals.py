"""The private parts of asyncpg and yoyo that Relay uses, behind one module each, are still where they were."""

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import asyncpg
import pytest
from yoyo.backends.base import DatabaseBackend
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend

from shared.infra.migrations import yoyo_backend
from shared.infra.postgres import asyncpg_internals

ROOT = Path(__file__).resolve().parents[2]
BEHIND = {"asyncpg": asyncpg_internals, "yoyo-migrations": yoyo_backend}


def requirement(package: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = [text for text in project["dependencies"] if text.startswith(package)]
    return str(found)


@pytest.mark.parametrize("package", BEHIND)
def test_the_version_is_bounded_and_named(package: str) -> None:
    installed = ".".join(version(package).split(".")[:2])
    assert re.search(r">=[0-9.]+,<[0-9.]+", requirement(package))
    assert installed in str(BEHIND[package].__doc__), "read the new version's code, then name it in the module"


def test_asyncpg_keeps_its_transport() -> None:
    assert "_transport" in asyncpg.Connection.__slots__
    assert "def terminate" in inspect.getsource(asyncpg.Connection)


def test_yoyo_connects_by_the_methods_that_the_backend_replaces() -> None:
    constructor = inspect.getsource(DatabaseBackend.__init__)
    assert "self._connection = self.connect(dburi)" in constructor
    assert "self.init_connection(self._connection)" in constructor
    assert "self.init_connection(self.connection)" in inspect.getsource(DatabaseBackend.rollback)
    assert "self.__class__(self.uri, self.migration_table)" in inspect.getsource(DatabaseBackend.copy)
    assert "self.uri.database" in inspect.getsource(DatabaseBackend.list_tables)
    assert PostgresqlPsycopgBackend.driver_module == "psycopg"
    assert {"init_database", "break_lock", "lock", "to_apply", "apply_migrations"} <= set(dir(DatabaseBackend))


def test_nothing_else_reaches_into_them() -> None:
    allowed = {
        "shared/infra/migrations/yoyo_backend.py",
        "shared/infra/migrations/migrate.py",
        "shared/infra/migrations/earlier_migrations.py",
        "shared/infra/postgres/asyncpg_internals.py",
    }
    reaching = re.compile(r"\byoyo\.backends|from yoyo |import yoyo|\b(conn|connection|pool)\._[a-z]")
    found = {
        str(path.relative_to(ROOT))
        for folder in ("shared", "services")
        for path in (ROOT / folder).rglob("*.py")
        if reaching.search(path.read_text(encoding="utf-8"))
    }
    assert found <= allowed
