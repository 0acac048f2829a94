"""`relay up`: run everything on one machine under one supervisor."""

import asyncio
import errno
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from services.local.child import Child
from services.local.data_dir import LIVEKIT_DEV_SECRET, DataDir
from services.local.embedded import READY_WITHIN_S, EmbeddedServer, not_ready, prepare_postgres, prepare_redis
from services.local.first_start import any_account, create_demo_project
from services.local.supervisor import StopRequested, Supervisor
from shared.errors import RelayError
from shared.infra.migrations.startup import ensure_migrated
from shared.infra.settings import Settings, default_data_dir, inherited_environment, load_settings
from shared.infra.settings_risks import is_local, is_local_host, is_published

DEFAULT_HOST = "127.0.0.1"
_POLL_S = 0.05
_HOPELESS_CRASHES = 3
# Placeholders for checking the settings before anything is started.
_EMBEDDED = {"DATABASE_URL": "postgresql://embedded/relay", "REDIS_URL": "redis://embedded"}


class PortUnusable(RelayError):
    """The API cannot listen on this address and port."""


_SECRETS_ADVICE = {
    "LIVEKIT_API_SECRET": "LIVEKIT_API_KEY and LIVEKIT_API_SECRET to a pair from `livekit-server generate-keys`",
    "AUTH_SECRET": "AUTH_SECRET to the output of `openssl rand -base64 32`",
}


class PublishedSecrets(RelayError):
    """Relay would be reachable from other machines with secrets that are published."""

    def __init__(self, host: str, names: list[str]) -> None:
        super().__init__(
            f"`--host {host}` opens Relay to other machines, but the value of {' and '.join(names)} is published,"
            f" so anybody could sign in. Set {' and '.join(_SECRETS_ADVICE[name] for name in names)}, or leave out --host"
        )


class ServiceNotReady(RelayError):
    """A service did not become ready in time, or crashes repeatedly."""


async def up(data_dir: Path, port: int | None, host: str = DEFAULT_HOST) -> int:
    """Run until SIGINT or SIGTERM and return the exit code. Errors are printed on stderr.

    Without ``port`` the API listens on PORT, else on 3000.
    """
    started = time.monotonic()
    home, supervisor = DataDir(data_dir), Supervisor()
    try:
        with home.locked(), supervisor.handling_signals():
            async with supervisor:
                settings = await supervisor.unless_stopped(_start(supervisor, home, port, host))
                print(
                    f"Relay is ready on {_local_url(host, settings.port)} ({time.monotonic() - started:.1f} s)",
                    flush=True,
                )
                await supervisor.unless_stopped(_welcome(settings, data_dir, host))
                await supervisor.stop_requested.wait()
    except StopRequested:
        return 0
    except RelayError as error:
        for line in str(error).splitlines():
            supervisor.say(line)
        return 1
    return 0


async def _start(supervisor: Supervisor, home: DataDir, port: int | None, host: str) -> Settings:
    environment = home.planned(port)
    planned = load_settings({**_EMBEDDED, **environment})
    refuse_published_secrets(host, planned)
    _refuse_unusable_port(host, planned.port)
    for name, prepare in (("DATABASE_URL", prepare_postgres), ("REDIS_URL", prepare_redis)):
        if name not in environment:
            server = await asyncio.to_thread(prepare, home.path)
            await _start_server(supervisor, server)
            environment[name] = server.url
    settings = load_settings(environment)
    home.store(environment)
    await asyncio.to_thread(ensure_migrated, settings.database)
    child_environment = inherited_environment(
        # The services write into a pipe, so they cannot see whether a person reads their log.
        {"LOG_FORMAT": _log_format(), **environment, "RELAY_HOST": host, "PYTHONUNBUFFERED": "1"}
    )
    for name in ("api", "worker"):
        await supervisor.start(service(name, name, child_environment))
    await _wait_for_api(supervisor, _local_url(host, settings.port))
    return settings


def _log_format() -> str:
    given = inherited_environment({}).get("LOG_FORMAT", "").strip()
    return given or ("text" if sys.stdout.isatty() else "auto")


def service(name: str, module: str, environment: Mapping[str, str] | None) -> Child:
    """Return the child process of a service.

    ``-P`` keeps Python from importing a `services` folder in the working directory instead.
    """
    argv = (sys.executable, "-P", "-m", f"services.{module}.main")
    return Child(name=name, argv=argv, env=environment, grace_s=30.0)


async def _start_server(supervisor: Supervisor, server: EmbeddedServer) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    await supervisor.start(server.child)
    while not await asyncio.to_thread(server.ready):
        if time.monotonic() > deadline:
            raise not_ready(server)
        await asyncio.sleep(_POLL_S)


async def _wait_for_api(supervisor: Supervisor, url: str) -> None:
    deadline, answer = time.monotonic() + READY_WITHIN_S, "nothing"
    # trust_env: requests to this machine must not go through a proxy of the environment.
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
        while time.monotonic() < deadline:
            try:
                response = await client.get(f"{url}/readyz")
                if response.status_code == 200:
                    return
                answer = f"{response.status_code}: {response.text[:500]}"
            except httpx.TransportError as error:
                answer = type(error).__name__
            if supervisor.crashes("api") >= _HOPELESS_CRASHES:
                raise ServiceNotReady("the API crashes repeatedly before it is ready; its own messages are above")
            await asyncio.sleep(_POLL_S)
    raise ServiceNotReady(f"{url}/readyz was not ready within {READY_WITHIN_S:.0f} s; its last answer was {answer}")


def refuse_published_secrets(host: str, settings: Settings) -> None:
    """Raise ``PublishedSecrets`` if other machines reach ``host`` and a secret is a published one."""
    if not is_local_host(host):
        secrets = {"LIVEKIT_API_SECRET": settings.livekit_api_secret, "AUTH_SECRET": settings.auth_secret}
        if published := [name for name, secret in secrets.items() if is_published(secret)]:
            raise PublishedSecrets(host, published)


def _refuse_unusable_port(host: str, port: int) -> None:
    """Raise ``PortUnusable`` before anything is started.

    The API's own message would be hard to find among its restarts.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortUnusable(f"port {port} is already in use; choose another with --port") from None
        raise PortUnusable(f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}") from None


def _local_url(host: str, port: int) -> str:
    reachable = "127.0.0.1" if host in ("", "0.0.0.0", "::", "localhost") else host  # noqa: S104
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


async def _welcome(settings: Settings, data_dir: Path, host: str) -> None:
    """Print the portal's address and three commands to copy.

    At the first start, also print the demo project's keys.
    """
    relay = _relay_command()
    options = "" if data_dir == default_data_dir() else f" --data-dir {shlex.quote(str(data_dir))}"
    url, key = _local_url(host, settings.port), "$RELAY_KEY"
    first_account = settings.sign_up != "invite" and not await any_account(settings.database)
    print(
        f"Portal: {url}/"
        + (" (the first person who opens it creates the administrator's account)" if first_account else "")
    )
    if not await _answers(settings.livekit_api_url):
        print(f"LiveKit does not answer at {settings.livekit_api_url}. Tokens and simulated traffic work without it.")
        if settings.livekit_api_secret == LIVEKIT_DEV_SECRET:
            print("To start it: `livekit-server --dev --config livekit.yaml`; docs/quickstart.md has this file.")
    project = await create_demo_project(settings.database)
    if project is None:
        print(f"\nSet RELAY_KEY to a secret key (create one with `{relay} keys create --project ID{options}`), then:")
    else:
        key = next(created.key for created in project.keys if created.mode == "live" and created.type == "secret")
        print(f"\nKeys of the project {project.name} ({project.project_id}). They are shown only once, now:")
        print("\n".join(f"  {created.key}" for created in project.keys))
        print("\nMint a token, send simulated traffic, read the usage:")
    authorization, body = f'-H "Authorization: Bearer {key}"', '{"room": "lobby", "identity": "ada"}'
    print(f"  curl -s {url}/v1/tokens {authorization} -H 'Content-Type: application/json' -d '{body}'")
    print(f"  {relay} simulate{options}")
    print(f"  curl -s '{url}/v1/usage?period=today' {authorization}", flush=True)


async def _answers(url: str) -> bool:
    """Return whether an HTTP server answers at ``url`` within 2 s, with any status."""
    try:
        async with httpx.AsyncClient(trust_env=not is_local(url), timeout=2.0) as client:
            await client.get(url)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def _relay_command() -> str:
    """Return the command as it was called, so that the printed lines work when they are pasted."""
    invoked = sys.argv[0]
    if Path(invoked).name != "relay":
        return "relay"
    found = shutil.which("relay")
    return "relay" if found and Path(found).resolve() == Path(invoked).resolve() else shlex.quote(invoked)
