"""Run both images and the unchanged compose file on a real Docker engine: `make images`.

    python -m tests.containers [--livekit-server PROGRAM]

This needs root on Debian 12. It does not need Docker's registry: stand-ins made of Debian's packages have the names of the
official images.
"""

import argparse
import fcntl
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shared.infra.settings import environment
from tests.containers.compose import compose
from tests.containers.engine import CACHE, Namespace, docker, install_packages
from tests.containers.scenario import Scenario, steps
from tests.containers.standins import make_standins

LONGEST_S = 900


def step(name: str, work: Callable[[], object]) -> None:
    print(f"  {name}", flush=True)
    started = time.monotonic()
    work()
    print(f"    {time.monotonic() - started:.1f} s", flush=True)


def follow(scratch: Path, livekit: Path | None) -> None:
    """Run all steps, from an empty machine to a restored backup."""
    caddy = Path(sys.executable).with_name("caddy")
    namespace = Namespace(scratch)
    step("packages", install_packages)
    try:
        namespace.enter()
        with docker(scratch):
            step("stand-ins for the official images", lambda: make_standins(scratch, caddy, livekit))
            scenario = Scenario(scratch, livekit is not None)
            step("both images", scenario.build)
            namespace.close()
            try:
                for name, work in steps(scenario):
                    step(name, work)
            except BaseException:
                for service in ("proxy", "postgres", "redis", "worker", "api"):
                    print(compose("logs", "--no-color", "--tail", "30", service)[-6_000:])
                raise
    finally:
        namespace.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--livekit-server", type=Path, help="compose's LiveKit runs too, with this program")
    livekit = parser.parse_args().livekit_server or environment().get("LIVEKIT_SERVER")
    if os.getuid():
        sys.exit("A Docker engine needs root.")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"not done after {LONGEST_S} s"))
    signal.alarm(LONGEST_S)
    started = time.monotonic()
    CACHE.mkdir(parents=True, exist_ok=True)
    # The lock prevents two runs from sharing the engine's layers. The directory has a short path for its sockets.
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="relay-ci-", dir="/tmp") as directory:
        fcntl.flock(lock, fcntl.LOCK_EX)
        follow(Path(directory), Path(livekit) if livekit else None)
    print(f"containers: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
