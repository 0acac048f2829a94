"""A child process: its command, its environment and how it is stopped."""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process to run.

    Without ``env`` it inherits ours. Without ``log`` its output is printed with its name before each line.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0
    log: Path | None = None

    def options(self) -> dict[str, Any]:
        """Return the options for ``subprocess.Popen`` and for asyncio.

        The process gets its own session, so that the terminal's Ctrl-C reaches the supervisor only. On Linux the kernel
        stops the process when the thread that started it ends.
        """
        options: dict[str, Any] = {
            "env": self.env,
            "cwd": self.cwd,
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,
            "preexec_fn": _dies_with_parent(self.stop_signal),
        }
        if self.user is not None:
            options |= {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}
        return options


def _dies_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None  # the next start stops processes that a killed parent left running
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:  # the parent ended before the kernel was asked
            os._exit(1)

    return ask_kernel
