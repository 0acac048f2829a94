"""The Dockerfiles, compose and .env.example match what the code reads.

The files are read as text, so that no test needs Docker or a YAML parser.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shared.infra.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("Dockerfile.api", "Dockerfile.worker")
ENTRY_POINTS = {
    "Dockerfile.api": ("services/api/main.py", "services/cli/main.py"),
    "Dockerfile.worker": ("services/worker/main.py",),
}
# Variables that compose needs and Relay does not read.
COMPOSE_ONLY = {
    "POSTGRES_PASSWORD", "LIVEKIT_NODE_IP", "RELAY_BIND", "RELAY_DOMAIN", "PYTHON_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE",
    "CADDY_IMAGE", "LIVEKIT_IMAGE", "RELAY_API_IMAGE", "RELAY_WORKER_IMAGE",
}  # fmt: skip
COMPLETE = {
    "DATABASE_URL": "postgresql://relay:pw@localhost:5432/relay",
    "REDIS_URL": "redis://localhost:6379/0",
    "LIVEKIT_URL": "wss://livekit.example.com",
    "LIVEKIT_API_KEY": "key",
    "LIVEKIT_API_SECRET": "secret",
    "AUTH_SECRET": "sixteen characters or more",
    "RELAY_API_URL": "https://relay.example.com",
}


class RecordingEnvironment(Mapping[str, str]):
    """An environment that records the names that are read."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def instructions(dockerfile: str) -> list[str]:
    """The instructions of a Dockerfile, one string each, continuation lines joined."""
    return without_comments(read(dockerfile)).replace("\\\n", " ").splitlines()


def settings_read() -> set[str]:
    environment = RecordingEnvironment(COMPLETE)
    load_settings(environment)
    return environment.asked


def image_environment(dockerfile: str) -> set[str]:
    lines = [line for line in instructions(dockerfile) if line.startswith("ENV ")]
    return {name for line in lines for name in re.findall(r"\b([A-Z][A-Z_]+)=", line)}


def compose_environment() -> dict[str, str]:
    block = re.search(r"^x-relay-environment:.*\n((?:  .*\n)+)", read("docker-compose.yml"), re.MULTILINE)
    assert block is not None
    return dict(re.findall(r"^  ([A-Z_]+): (.*)$", block[1], re.MULTILINE))


def example_variables() -> set[str]:
    return set(re.findall(r"^#?([A-Z][A-Z_]+)=", read(".env.example"), re.MULTILINE))


def test_env_example_lists_every_setting_and_nothing_else() -> None:
    set_by_the_image = image_environment("Dockerfile.api")
    assert settings_read() - example_variables() <= set_by_the_image
    assert example_variables() - settings_read() == COMPOSE_ONLY


def test_env_example_sets_no_value() -> None:
    uncommented = re.findall(r"^([A-Z][A-Z_]+)=(.*)$", read(".env.example"), re.MULTILINE)
    assert [(name, value) for name, value in uncommented if value] == []


def test_compose_passes_every_setting() -> None:
    # Each image sets some variables only for itself: where it listens, how it drains.
    own = image_environment("Dockerfile.api") | image_environment("Dockerfile.worker")
    given = set(compose_environment()) | own
    assert settings_read() - given == set()


def test_compose_sets_only_settings_that_relay_reads() -> None:
    assert set(compose_environment()) - settings_read() == set()


def test_compose_explains_how_to_set_a_missing_required_setting() -> None:
    for name, value in compose_environment().items():
        if name in COMPLETE and name != "REDIS_URL":
            assert re.search(r"\$\{[A-Z_]+:\?set it in \.env to [^}]+\}", value), name


def test_compose_interpolates_only_variables_of_env_example() -> None:
    interpolated = set(re.findall(r"\$\{([A-Z_]+)", without_comments(read("docker-compose.yml"))))
    assert interpolated <= example_variables()


def test_compose_publishes_ports_only_on_loopback_by_default() -> None:
    """Plain HTTP would expose keys, and the first visitor of a new instance becomes its administrator."""
    ports = [
        port
        for block in re.findall(r"^    ports:\n((?: {6}.*\n)+)", read("docker-compose.yml"), re.MULTILINE)
        for port in re.findall(r'^      - "(.+)"$', block, re.MULTILINE)
    ]
    assert len(ports) == 4
    assert [port for port in ports if not port.startswith("${RELAY_BIND:-127.0.0.1}:")] == []


def images(name: str) -> list[str]:
    return re.findall(r"^ +image: (.+)$", read(name), re.MULTILINE)


def test_every_image_is_configurable_and_none_is_tagged_latest() -> None:
    """Users can replace a tag without security releases. An unverified digest is worse than a tag."""
    for image in images("docker-compose.yml"):
        default = re.fullmatch(r"\$\{[A-Z_]+_IMAGE:-([a-z/-]+(:[\w.-]+)?)\}", image)
        assert default is not None, image
        assert default[2] != ":latest"
        assert default[2] or default[1].startswith("relay-"), image
    for dockerfile in DOCKERFILES:
        base = next(line for line in instructions(dockerfile) if line.startswith("ARG PYTHON_IMAGE="))
        assert f"${{PYTHON_IMAGE:-{base.partition('=')[2]}}}" in read("docker-compose.yml")
        assert all(line.split()[1] == "${PYTHON_IMAGE}" for line in instructions(dockerfile) if line.startswith("FROM"))


def test_compose_builds_each_image_once() -> None:
    built = re.findall(r"dockerfile: (\S+)", without_comments(read("docker-compose.yml")))
    assert sorted(built) == ["Dockerfile.api", "Dockerfile.worker"]


def test_compose_redis_syncs_every_write_to_disk() -> None:
    command = re.search(r'command: \["redis-server", (.*)\]', read("docker-compose.yml"))
    assert command is not None
    assert '"--appendonly", "yes", "--appendfsync", "always"' in command[1]


def test_compose_starts_api_and_worker_after_the_migrations() -> None:
    waits = re.findall(r"migrate:\n\s+condition: service_completed_successfully", read("docker-compose.yml"))
    assert len(waits) == 2


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_image_installs_only_hashed_packages_of_the_lock(dockerfile: str) -> None:
    installs = [line for line in instructions(dockerfile) if " install --" in line]
    assert installs
    assert all("--require-hashes" in line and "-r /tmp/requirements.lock" in line for line in installs)
    assert any(
        re.match(r"COPY requirements(-worker)?\.lock /tmp/requirements\.lock$", line)
        for line in instructions(dockerfile)
    )


def locked(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==([^ ]+)", read(lock), re.MULTILINE))


def test_worker_lock_is_a_subset_of_the_full_lock() -> None:
    worker, everything = locked("requirements-worker.lock"), locked("requirements.lock")
    assert worker.items() <= everything.items()
    assert not {"litestar", "uvicorn", "jinja2", "httpx"} & set(worker)


def test_worker_lock_contains_every_package_the_worker_imports() -> None:
    """A missing package would be noticed only in a running container."""
    files = [path for folder in ("shared", "services/worker") for path in (ROOT / folder).rglob("*.py")]
    imported = {
        name.split(".")[0]
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    ours = {
        "services",
        "shared",
        "livekit",
        "google",
        "opentelemetry",
        "yoyo",
    }  # these packages have other names, see below
    named = {
        "livekit": "livekit-api",
        "google": "protobuf",
        "opentelemetry": "opentelemetry-sdk",
        "yoyo": "yoyo-migrations",
    }
    foreign = imported - set(sys.stdlib_module_names) - ours
    packages = {name.replace("_", "-") for name in foreign} | {named[name] for name in imported & set(named)}
    assert packages <= set(locked("requirements-worker.lock"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_image_does_not_run_as_root(dockerfile: str) -> None:
    users = [line.split()[1] for line in instructions(dockerfile) if line.startswith("USER ")]
    assert users
    assert users[-1].split(":")[0] not in {"root", "0"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_image_runs_python_as_process_1_and_stops_on_sigterm(dockerfile: str) -> None:
    # With the shell form /bin/sh is process 1. It forwards no SIGTERM, so every stop would be a kill.
    commands = [line for line in instructions(dockerfile) if line.startswith("CMD ")]
    assert [command.startswith('CMD ["python", "-m", ') for command in commands] == [True]
    assert "STOPSIGNAL SIGTERM" in instructions(dockerfile)


@pytest.mark.parametrize(("dockerfile", "port"), [("Dockerfile.api", "PORT"), ("Dockerfile.worker", "WORKER_PORT")])
def test_image_health_check_runs_without_a_shell(dockerfile: str, port: str) -> None:
    check = next(line for line in instructions(dockerfile) if line.startswith("HEALTHCHECK "))
    assert re.search(r'CMD \["python", "-IS", "-c", ".*/healthz.*"\]$', check)
    assert f"os.environ['{port}']" in check
    assert port in image_environment(dockerfile)


def copied(dockerfile: str) -> list[str]:
    lines = [line.split() for line in instructions(dockerfile) if line.startswith("COPY ")]
    return [words[1] for words in lines if not words[1].startswith("--") and not words[1].endswith(".lock")]


def is_copied(path: str, sources: list[str]) -> bool:
    return any(path == source or path.startswith(source + "/") for source in sources)


def module_file(module: str) -> str | None:
    stem = module.replace(".", "/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if (ROOT / path).is_file()), None)


def imported_at_start(path: str) -> set[str]:
    """Return Relay's files that importing ``path`` imports, without imports inside functions."""
    modules: set[str] = set()
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {module for module in modules if module.split(".")[0] in {"services", "shared"}}
    return {file for module in ours if (file := module_file(module)) is not None}


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_image_contains_every_module_its_entry_points_import(dockerfile: str) -> None:
    sources, waiting = copied(dockerfile), list(ENTRY_POINTS[dockerfile])
    assert "migrations" in sources
    reached: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting.extend(imported_at_start(path))
    assert [path for path in sorted(reached) if not is_copied(path, sources)] == []


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_every_copied_path_exists_and_is_in_the_build_context(dockerfile: str) -> None:
    sent = [line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")]
    for source in copied(dockerfile):
        assert (ROOT / source).exists(), source
        assert is_copied(source, sent), source
