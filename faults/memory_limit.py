"""Limit the memory of a process with a control group, like a container. Needs root on Linux."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

_ROOT = Path("/sys/fs/cgroup")


class MemoryUse(NamedTuple):
    """Memory of a group in bytes, and the number of its processes that the kernel killed.

    The current value includes the kernel's socket buffers. The peak does not.
    """

    now: int
    sockets: int
    peak: int
    killed: int


class MemoryLimit:
    """A control group of version 2, or of version 1 if that one controls memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._old = (_ROOT / "memory").is_dir()
        self.path = (_ROOT / "memory" if self._old else _ROOT) / f"relay-faults-{uuid4().hex[:8]}"
        self.path.mkdir()
        if self._old:
            self._write("memory.limit_in_bytes", limit_bytes)
            self._write("memory.kmem.tcp.limit_in_bytes", 2**40)  # without a limit socket buffers are not counted
        else:
            self._write("memory.max", limit_bytes)

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value), encoding="ascii")

    def _read(self, name: str) -> int:
        return int((self.path / name).read_text(encoding="ascii").split()[0])

    def _count(self, name: str, field: str) -> int:
        for line in (self.path / name).read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == field:
                return int(value)
        return 0

    def use(self) -> MemoryUse:
        """Return the current use of the group."""
        if self._old:
            sockets = self._read("memory.kmem.tcp.usage_in_bytes")
            now = self._count("memory.stat", "total_rss") + self._read("memory.kmem.usage_in_bytes") + sockets
            killed = self._count("memory.oom_control", "oom_kill")
            return MemoryUse(now, sockets, self._read("memory.max_usage_in_bytes"), killed)
        sockets = self._count("memory.stat", "sock")
        now = self._read("memory.current") - self._count("memory.stat", "file")
        return MemoryUse(now, sockets, self._read("memory.peak"), self._count("memory.events", "oom_kill"))

    def remove(self) -> None:
        for _ in range(100):  # the kernel takes a moment to see that the last process has ended
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.05)


@contextmanager
def memory_limit(limit_bytes: int) -> Iterator[MemoryLimit]:
    """Create a group, and remove it at the end. Its processes must have ended by then."""
    limit = MemoryLimit(limit_bytes)
    try:
        yield limit
    finally:
        limit.remove()
