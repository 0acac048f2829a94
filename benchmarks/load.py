"""HTTP load by wrk: bounded in time, on the loopback interface, every answer's status counted."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

_SCRIPT = Path(__file__).resolve().parent / "load.lua"


class Load(NamedTuple):
    """``ok`` counts 2xx answers, ``wrong`` every other answer or broken connection. Latencies in ms."""

    per_second: float
    p50_ms: float
    p99_ms: float
    ok: int
    wrong: int


def run(url: str, requests: Path, *, connections: int = 32, seconds: float = 5) -> Load:
    """Sends the requests of a file (``headers TAB body`` a line, see ``line``), over and over, for a time."""
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
    """One request of a load's file. Neither part may hold a line break, as JSON without white space does not."""
    return "\1".join(f"{name}: {value}" for name, value in headers.items()).encode() + b"\t" + body + b"\n"
