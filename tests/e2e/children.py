"""Processes that a test starts."""

import subprocess
from typing import Any


def end(process: "subprocess.Popen[Any]", within_s: float) -> None:
    """Asks it to end, and kills one that takes longer."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
