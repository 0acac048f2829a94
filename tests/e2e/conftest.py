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
from typing import NamedTuple

import httpx
import pytest

from services.local.data_dir import STORED, DataDir
from shared.infra.settings import DatabaseUrl, inherited_environment, parse_database_url
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
def relay_up(directory: Path, port: int, livekit_url: str, **more: str) -> Iterator[Up]:
    """`relay up` until the block ends; ``more`` are further settings."""
    own = {"LIVEKIT_URL": livekit_url, "LIVEKIT_API_KEY": API_KEY, "LIVEKIT_API_SECRET": API_SECRET, **more}
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


@pytest.fixture
async def stack(livekit_program: str, streams_url: str) -> AsyncIterator[Stack]:
    directory = Path(tempfile.mkdtemp(prefix="relay-test-"))
    port, webhook_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    try:
        async with recording(webhook_port, f"{url}/api/webhooks/livekit") as recorder:
            with (
                livekit_server(livekit_program, directory, recorder.url) as livekit,
                relay_up(directory / "data", port, livekit.url, REDIS_STREAMS_URL=streams_url) as relay,
            ):
                await asyncio.to_thread(relay.wait_for, "Relay is ready on")
                database = parse_database_url(DataDir(directory / "data").stored()["DATABASE_URL"])
                async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as api:
                    yield Stack(api, database, livekit, recorder)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
