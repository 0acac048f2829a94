"""Measure the time until a process is ready, and its memory then."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.machine import Spread, resident_mib
from shared.infra.settings import inherited_environment


def measure(rounds: int) -> dict[str, Spread]:
    """Measure the starts of `relay api` and of `relay up` on existing data, in seconds.

    Also measures the memory of an idle api and worker, in MiB.
    """
    api, up, api_mib, worker_mib = [], [], [], []
    with processes.scratch() as directory, processes.servers(directory) as (_, env):
        for number in range(rounds):
            started = time.perf_counter()
            with processes.api(env, directory) as site:
                api.append(time.perf_counter() - started)
                api_mib.append(resident_mib(site.pid))
            with processes.worker(env, directory, f"worker{number}") as pid:
                worker_mib.append(resident_mib(pid))
    with processes.scratch() as directory:
        _up(directory)  # creates the data
        up = [_up(directory) for _ in range(rounds)]
    return {
        "relay_api_s": Spread(tuple(api)),
        "relay_up_s": Spread(tuple(up)),
        "idle_api_mib": Spread(tuple(api_mib)),
        "idle_worker_mib": Spread(tuple(worker_mib)),
    }


def _up(directory: Path) -> float:
    command = [sys.executable, "-m", "services.cli.main", "up", "--port", str(processes.free_port())]
    command += ["--data-dir", str(directory / "data")]
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=processes.ROOT,
        env=inherited_environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            for said in child.stdout:
                if said.startswith("Relay is ready"):
                    return time.perf_counter() - started
            raise RuntimeError("relay up ended before it was ready")
        finally:
            child.terminate()
            child.wait(60)
