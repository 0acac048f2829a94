"""Runs an image as a container would: process 1 of a namespace of its own, as the image's user, on a file system that cannot
be written to but for /tmp."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tests.images.dockerfile import Image

# Mounts are made in a namespace that ends with the process, so nothing has to be cleaned up.
_INSIDE = """
set -e
mount --bind {root} {root}
mount -t tmpfs tmpfs {root}/tmp
mount -t proc proc {root}/proc
mount -o remount,bind,ro {root}
exec chroot --userspec={user} {root} /bin/sh -c {command}
"""


def _argv(image: Image, command: list[str], settings: Mapping[str, str]) -> list[str]:
    variables = {**image.environment, **settings}
    cleared = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), *command]
    inside = f"cd {shlex.quote(image.workdir)} && exec {shlex.join(cleared)}"
    script = _INSIDE.format(root=shlex.quote(str(image.root)), user=image.user, command=shlex.quote(inside))
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", script]


def ran(image: Image, command: list[str], settings: Mapping[str, str]) -> str:
    """The output of a command that ends by itself. Raises ``CalledProcessError``."""
    return subprocess.run(
        _argv(image, command, settings), capture_output=True, text=True, timeout=120, check=True
    ).stdout


@contextmanager
def running(image: Image, settings: Mapping[str, str], log: TextIO) -> Iterator["subprocess.Popen[bytes]"]:
    """The image's own command."""
    with subprocess.Popen(_argv(image, image.command, settings), stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_healthy(image: Image, settings: Mapping[str, str], within_s: float = 60.0) -> float:
    """By the image's own health check; how long it took, in seconds."""
    started = time.monotonic()
    while True:
        ended = subprocess.run(_argv(image, image.healthcheck, settings), capture_output=True, check=False)
        if ended.returncode == 0:
            return time.monotonic() - started
        if time.monotonic() - started > within_s:
            raise AssertionError(f"not healthy after {within_s:g} s: {ended.stderr.decode()[-500:]}")
        time.sleep(0.2)


def stop(image: Image, process: "subprocess.Popen[bytes]", within_s: float = 30.0) -> float:
    """Sends the image's stop signal to process 1, as `docker stop` does; how long it took, in seconds. Raises
    ``TimeoutExpired`` where Docker would kill it, ``AssertionError`` where it did not end in order."""
    started = time.monotonic()
    first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    status = Path(f"/proc/{first}/status").read_text()
    assert status.split("NSpid:")[1].splitlines()[0].split()[-1] == "1", "it is not process 1"
    assert f"Uid:\t{image.user.split(':')[0]}" in status, "it does not run as the image's user"
    os.kill(first, signal.Signals[image.stop_signal])
    code = process.wait(within_s)
    assert code == 0, f"it ended with {code}"
    return time.monotonic() - started
