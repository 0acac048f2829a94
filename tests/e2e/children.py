"""Processes that a test starts."""

import subprocess
from typing import Any


def end(process: "subprocess.Popen[Any]", within_s: float) -> None:
    """Terminate the process, and kill it if it runs longer than ``within_s``."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
