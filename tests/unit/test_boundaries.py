"""Rules on the source code: allowed imports, reads of the environment, SQL, and the size of folders.

The checks read the source and run none of it. Each rule is also checked with a source that breaks it, because a check that
never finds anything would pass too.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py"))
MIGRATIONS = sorted((ROOT / "migrations").glob("*.sql"))
LOCKS = sorted(ROOT.glob("requirements*.lock"))

# Statements about the server itself. They run before a schema exists or are not about its tables.
ABOUT_THE_SERVER = {
    ("services/local/embedded.py", "SELECT 1 FROM pg_database WHERE datname = 'relay'"),
    ("services/local/embedded.py", "CREATE DATABASE relay"),
    ("shared/infra/postgres/pool.py", "SELECT set_config('statement_timeout', $1, false)"),
    ("shared/infra/migrations/migrate.py", "CREATE SCHEMA IF NOT EXISTS {}"),
}
STATEMENT = re.compile(
    r"SELECT\b.*\bFROM\b|SELECT\s+\w+\s*\(|WITH\b.*\bAS\s*\(|INSERT\s+INTO\b|UPDATE\b.*\bSET\b|DELETE\s+FROM\b"
    r"|(CREATE|ALTER|DROP)\s+(OR\s+REPLACE\s+|UNIQUE\s+|TEMP\w*\s+)?[A-Z]{4,}\b|TRUNCATE\s|(UN)?LISTEN\s|NOTIFY\s"
    r"|LOCK\s+TABLE\b|COPY\s+\w|SET\s+(LOCAL\s+)?\w+\s*(=|TO\b)",
    re.DOTALL,
)

Rule = Callable[[str, ast.Module], Iterator[str]]


def imported(name: str, tree: ast.Module) -> Iterator[str]:
    """Full names of all modules and names imported, inside functions and under TYPE_CHECKING too."""
    package = name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            yield ast.unparse(node.args[0]).strip("'\"")


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def forbidden_imports(name: str, tree: ast.Module) -> Iterator[str]:
    """shared/ imports no service and no web framework. The API and the worker do not import each other."""
    forbidden = {
        "shared/": ("services", "litestar"),
        "services/api/": ("services.worker", "services.cli", "services.local"),
        "services/worker/": ("services.api", "services.cli", "services.local", "litestar"),
    }
    for folder, packages in forbidden.items():
        if name.startswith(folder):
            yield from (module for module in imported(name, tree) if within(module, *packages))


def environment_reads(name: str, tree: ast.Module) -> Iterator[str]:
    """Only shared/infra/settings.py reads the environment. A setting read elsewhere is never validated."""
    if name == "shared/infra/settings.py":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb", "putenv"):
            yield ast.unparse(node)
    yield from (module for module in imported(name, tree) if re.fullmatch(r"os\.(environb?|getenvb?|putenv)", module))


def docstrings(tree: ast.Module) -> set[int]:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }


def literals(tree: ast.Module) -> Iterator[str]:
    """Yield all strings except docstrings. An f-string is one string, with {} in place of its values."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    skipped = inside | docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def stray_sql(name: str, tree: ast.Module) -> Iterator[str]:
    """Only modules named queries contain SQL, because a schema change would miss a statement elsewhere."""
    if "queries" in name.removesuffix(".py").split("/"):
        return
    for text in literals(tree):
        if STATEMENT.match(text.strip()) and (name, text) not in ABOUT_THE_SERVER:
            yield text


def unbounded_connections(name: str, tree: ast.Module) -> Iterator[str]:
    """The API takes connections only through ``borrowed``.

    The pool's own methods would wait without a limit if Postgres hangs.
    """
    if not name.startswith("services/api/"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.search(
            r"pool\.(acquire|execute|fetch|fetchrow|fetchval)$", ast.unparse(node)
        ):
            yield ast.unparse(node)


MAY_IMPORT_ROUTES = ("services/api/routes.py", "services/api/app.py", "services/api/portal/routes.py")


def logic_from_routes(name: str, tree: ast.Module) -> Iterator[str]:
    """Only the modules that put routes together import a `routes` module.

    Logic belongs in `service`, structs in `schemas`.
    """
    if name in MAY_IMPORT_ROUTES:
        return
    for module in imported(name, tree):
        if "routes" in module.split(".") and within(module, "services.api"):
            yield module


PURE = ("shared/metering/", "shared/livekit/access_token.py", "shared/livekit/webhook.py")
DOES_IO = (
    "asyncio", "asyncpg", "aiohttp", "dramatiq", "http", "httpx", "litestar", "os", "pathlib", "psycopg", "redis", "requests",
    "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "urllib.request", "uvicorn", "yoyo",
)  # fmt: skip


def modules_of(name: str) -> str:
    """The dotted name of a source file."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def graph(sources: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """What each module imports of our own modules. A package counts only if its `__init__` holds code."""
    known = {modules_of(name): tree for name, tree in sources.items() if not name.endswith("/__init__.py") or tree.body}
    return {
        modules_of(name): {module for module in imported(name, tree) if module in known} - {modules_of(name)}
        for name, tree in sources.items()
    }


def reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    """All modules that importing ``start`` imports, directly or not."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for module in edges.get(waiting.pop(), set()) - found:
            found.add(module)
            waiting.append(module)
    return found


def circles(edges: Mapping[str, set[str]]) -> list[str]:
    """Modules that import themselves through others."""
    return sorted(module for module in edges if module in reachable(module, edges))


def impurities(sources: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """The modules that do I/O and that the pure ones import, directly or through other modules of Relay."""
    edges = graph(sources)
    outside = {modules_of(name): set(imported(name, tree)) for name, tree in sources.items()}
    found = {}
    for name in sources:
        if name.startswith(PURE):
            start = modules_of(name)
            imports = {module for each in (start, *reachable(start, edges)) for module in outside[each]}
            if does_io := {module for module in imports if within(module, *DOES_IO)}:
                found[name] = does_io
    return found


def crowded(names: Iterable[str]) -> dict[str, int]:
    """Folders of more than 14 modules."""
    count = Counter(name.rpartition("/")[0] for name in names if not name.endswith("/__init__.py"))
    return {folder: modules for folder, modules in count.items() if modules > 14}


RULES: tuple[Rule, ...] = (forbidden_imports, environment_reads, stray_sql, unbounded_connections, logic_from_routes)


@pytest.fixture(scope="module")
def sources() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def test_modules_have_no_import_circle(sources: dict[str, ast.Module]) -> None:
    assert list(circles(graph(sources))) == []


def test_pure_packages_do_not_import_io_modules(sources: dict[str, ast.Module]) -> None:
    assert [name for name in PURE if not any(source.startswith(name) for source in sources)] == []
    assert impurities(sources) == {}


def test_no_folder_has_more_than_fourteen_modules(sources: dict[str, ast.Module]) -> None:
    assert crowded(sources) == {}


def test_checks_detect_circles_io_imports_and_crowded_folders() -> None:
    texts = {
        "shared/a.py": "from shared.b import x",
        "shared/b.py": "def f():\n    from shared import c",
        "shared/c.py": "import shared.a",
        "shared/d.py": "import shared.a",
        "shared/metering/state.py": "from shared.d import y",
        "shared/metering/span.py": "import math",
        "shared/e.py": "import redis.asyncio",
    }
    trees = {name: ast.parse(text) for name, text in texts.items()}
    assert circles(graph(trees)) == ["shared.a", "shared.b", "shared.c"]
    assert impurities(trees) == {}
    trees["shared/c.py"] = ast.parse("from shared import e")
    assert impurities(trees) == {"shared/metering/state.py": {"redis.asyncio"}}
    assert crowded([f"shared/x/m{number}.py" for number in range(14)] + ["shared/x/__init__.py"]) == {}
    assert crowded([f"shared/x/m{number}.py" for number in range(15)]) == {"shared/x": 15}


@pytest.mark.parametrize("rule", RULES)
def test_every_source_file_follows_the_rule(rule: Rule) -> None:
    names = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in SOURCES}
    assert len(names) > 30
    broken = {name: found for name, text in names.items() if (found := list(rule(name, ast.parse(text))))}
    assert broken == {}


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (forbidden_imports, "shared/infra/ids.py", "from services.api import auth"),
        (forbidden_imports, "shared/infra/ids.py", "def f():\n    import litestar.handlers"),
        (forbidden_imports, "shared/models/usage/ranges.py", "from ....services import api"),
        (forbidden_imports, "services/api/app.py", "from services import worker"),
        (forbidden_imports, "services/api/app.py", "from ..worker.drain import drain_inbox"),
        (
            forbidden_imports,
            "services/worker/drain.py",
            "import importlib\nimportlib.import_module('services.api.usage.service')",
        ),
        (environment_reads, "services/api/main.py", "import os\nos.environ['PORT']"),
        (environment_reads, "services/cli/main.py", "import os as o\no.getenv('PORT')"),
        (environment_reads, "shared/infra/clock.py", "from os import environ as e\ne['TZ']"),
        (stray_sql, "shared/ledger/fold.py", "q = 'SELECT state FROM session'"),
        (stray_sql, "shared/ledger/fold.py", "q = f'''\n  INSERT INTO {table} VALUES ($1)'''"),
        (stray_sql, "services/api/usage/service.py", "q = f'UPDATE {table} SET x = 1'"),
        (stray_sql, "shared/infra/postgres/pool.py", "q = 'SET LOCAL statement_timeout = 1'"),
        (stray_sql, "shared/infra/postgres/pool.py", "q = 'SELECT pg_notify($1, $2)'"),
        (stray_sql, "shared/infra/migrations/migrate.py", "q = 'CREATE UNIQUE INDEX a ON b (c)'"),
        (stray_sql, "services/api/usage/service.py", "q = 'WITH a AS (SELECT 1) TABLE a'"),
        (unbounded_connections, "services/api/usage/service.py", "async def f(self):\n    await self._pool.acquire()"),
        (unbounded_connections, "services/api/usage/service.py", "async def f(pool):\n    await pool.fetchval(q)"),
        (logic_from_routes, "services/api/main.py", "from services.api.tokens import routes as tokens"),
        (logic_from_routes, "services/api/events/routes.py", "from services.api.sessions.routes import answer"),
        (logic_from_routes, "services/worker/jobs.py", "def f():\n    import services.api.usage.routes"),
    ],
)
def test_rule_detects_a_violating_source(rule: Rule, name: str, source: str) -> None:
    assert list(rule(name, ast.parse(source)))


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (
            forbidden_imports,
            "services/api/app.py",
            "import litestar\nfrom services.api import auth\nfrom . import usage",
        ),
        (forbidden_imports, "services/cli/main.py", "from services.api.main import run\nimport services.worker.main"),
        (stray_sql, "shared/infra/clock.py", "def f():\n    'SELECT a FROM b'\nx = 'Select a room from the list'"),
        (environment_reads, "shared/infra/settings.py", "import os\nos.environ"),
        (logic_from_routes, "services/api/app.py", "from services.api.tokens import routes"),
        (logic_from_routes, "services/api/main.py", "from services.api.http.serving.hot_routes import HotRoutes"),
        (unbounded_connections, "services/worker/drain.py", "async def f(pool):\n    await pool.acquire()"),
        (unbounded_connections, "services/api/usage/service.py", "async def f(conn):\n    await conn.fetchval(q)"),
    ],
)
def test_rule_accepts_an_allowed_source(rule: Rule, name: str, source: str) -> None:
    assert not list(rule(name, ast.parse(source)))


def test_exempted_sql_statements_still_exist() -> None:
    """An exemption for a removed statement would allow it again without notice."""
    for name, statement in ABOUT_THE_SERVER:
        assert statement in literals(ast.parse((ROOT / name).read_text(encoding="utf-8")))


def test_every_migration_has_a_rollback_that_drops_its_tables() -> None:
    names = {path.name for path in MIGRATIONS}
    forward = {name.removesuffix(".sql") for name in names if not name.endswith(".rollback.sql")}
    assert forward
    assert names == {f"{name}{suffix}" for name in forward for suffix in (".sql", ".rollback.sql")}
    for name in forward:
        up, down = ((ROOT / f"migrations/{name}{end}").read_text(encoding="utf-8") for end in (".sql", ".rollback.sql"))
        created = re.findall(r"^CREATE TABLE (\w+)\b(?! PARTITION OF)", up, re.MULTILINE)
        assert sorted(created) == sorted(re.findall(r"^DROP TABLE (\w+)", down, re.MULTILINE)), name


# name==version, then hashes. Comments may contain only the files and packages that require it.
REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+(\[[a-z0-9,._-]+\])?==[A-Za-z0-9.!+_-]+( ; [^:/]+)?( \\)?")


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_lock_files_pin_hashes_and_contain_no_host_or_index(path: Path) -> None:
    """The next build would fetch packages from a URL or an index in a lock file."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"://|index-url|find-links|trusted-host|localhost|\b\d+\.\d+\.\d+\.\d+:\d+", text)
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    hashes = [line for line in lines if re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line)]
    pinned = [line for line in lines if REQUIREMENT.fullmatch(line)]
    assert sorted(hashes + pinned) == sorted(lines)
    assert pinned
    assert len(hashes) >= len(pinned)


def test_all_lock_files_exist() -> None:
    assert [path.name for path in LOCKS] == [
        "requirements-ci.lock",
        "requirements-dev.lock",
        "requirements-worker.lock",
        "requirements.lock",
    ]
