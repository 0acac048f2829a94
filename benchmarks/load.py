"""HTTP load by wrk on the loopback interface, for a limited time. Counts the status of each response."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

_SCRIPT = Path(__file__).resolve().parent / "load.lua"


class Load(NamedTuple):
    """Counts and latencies of one load, in ms.

    ``ok`` counts 2xx responses, ``wrong`` every other response or broken connection.
    """

    per_second: float
    p50_ms: float
    p99_ms: float
    ok: int
    wrong: int


def run(url: str, requests: Path, *, connections: int = 32, seconds: float = 5) -> Load:
    """Send the requests of a file again and again for a time. ``line`` makes the lines of the file."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(_SCRIPT), url]
    answer = subprocess.run([*command, "--", str(requests)], capture_output=True, text=True, check=True, timeout=120)
    said = json.loads(answer.stdout.splitlines()[-1])
    ok = said["requests"] - said["status_errors"]
    return Load(
        ok / (said["duration_us"] / 1e6),
        said["p50_us"] / 1000,
        said["p99_us"] / 1000,
        ok,
        said["status_errors"] + said["socket_errors"],
    )


def line(headers: dict[str, str], body: bytes) -> bytes:
    """Return one line of a load's file, ``headers TAB body``.

    Neither part may hold a line break. JSON without white space has none.
    """
    return "\1".join(f"{name}: {value}" for name, value in headers.items()).encode() + b"\t" + body + b"\n"
