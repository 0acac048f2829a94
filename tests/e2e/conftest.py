"""Relay as a separate process, with a real LiveKit behind it and a recorder in between."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from services.local.data_dir import STORED
from services.local.embedded import EmbeddedServers
from shared.infra.settings import DatabaseUrl, inherited_environment
from tests.conftest import fresh_database
from tests.e2e.browser import chromium
from tests.e2e.children import end
from tests.e2e.livekit_server import API_KEY, API_SECRET, LiveKit, binary, livekit_server, unavailable
from tests.e2e.recorder import Recorder, recording
from tests.e2e.test_up import _UP, Up
from tests.ports import free_port

_STOP_WITHIN_S = 60.0


class Stack(NamedTuple):
    """Everything a call needs, running."""

    api: httpx.AsyncClient
    database: DatabaseUrl
    livekit: LiveKit
    recorder: Recorder


@contextmanager
def relay_up(directory: Path, port: int, livekit_url: str, database: DatabaseUrl, **more: str) -> Iterator[Up]:
    """Run `relay up` with this database and an embedded Redis until the block ends. ``more`` are further settings.

    A migrated database saves the start of a Postgres with a new cluster. test_up.py starts that one.
    """
    own = {
        "DATABASE_URL": database.dsn,
        "LIVEKIT_URL": livekit_url,
        "LIVEKIT_API_KEY": API_KEY,
        "LIVEKIT_API_SECRET": API_SECRET,
        **more,
    }
    inherited = {name: value for name, value in inherited_environment({}).items() if name not in STORED}
    command = [sys.executable, "-c", _UP.format(port=port), str(directory)]
    with subprocess.Popen(
        command, env={**inherited, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        started = Up(process)
        reader = threading.Thread(target=started.read)
        reader.start()
        try:
            yield started
        finally:
            end(process, _STOP_WITHIN_S)
            reader.join(_STOP_WITHIN_S)


@pytest.fixture
def livekit_program() -> str:
    """The real livekit-server; where it is not there, or its client is not, the test ends here, before anything was started."""
    program = binary()
    if find_spec("livekit.rtc") is None:
        unavailable("the livekit package (LiveKit's client SDK) is not installed")
    return program


@pytest.fixture
def streams_url() -> str:
    """Where the event streams lie, if not on the Redis of everything: a module may have another."""
    return ""


@pytest.fixture(scope="session")
async def shared_browser() -> AsyncIterator[Any]:
    async with chromium() as running:
        yield running


@pytest.fixture
async def browser(shared_browser: Any) -> AsyncIterator[Any]:
    """Yield the one Chromium of all tests. The contexts that a test opens are closed at its end."""
    yield shared_browser
    for context in shared_browser.contexts:
        await context.close()


@pytest.fixture(scope="module")
def module_database(servers: EmbeddedServers, migrated_template: str) -> Iterator[DatabaseUrl]:
    """Yield a migrated database for the tests of a module."""
    with fresh_database(servers, migrated_template) as made:
        yield made


@pytest.fixture
async def stack(livekit_program: str, streams_url: str, database: DatabaseUrl) -> AsyncIterator[Stack]:
    directory = Path(tempfile.mkdtemp(prefix="relay-test-"))
    port, webhook_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    try:
        async with recording(webhook_port, f"{url}/api/webhooks/livekit") as recorder:
            with (
                livekit_server(livekit_program, directory, recorder.url) as livekit,
                relay_up(directory / "data", port, livekit.url, database, REDIS_STREAMS_URL=streams_url) as relay,
            ):
                await asyncio.to_thread(relay.wait_for, "Relay is ready on")
                async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as api:
                    yield Stack(api, database, livekit, recorder)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
