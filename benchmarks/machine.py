"""Describe the machine, measure memory and processor time, and print results."""

import contextlib
import json
import os
import platform
import statistics
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

console = Console(width=140)


class Spread(NamedTuple):
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(min(self.values))} to {_short(max(self.values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def describe() -> str:
    """Describe processor, cores, memory, kernel and Python in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or "unknown processor",
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {gib:.0f} GiB, {system}; load average {os.getloadavg()[0]:.1f}"


class Memory(NamedTuple):
    """Memory of a process in MiB.

    ``rss`` counts every page that the process uses. ``pss`` divides a shared page among its processes, so it changes when
    other processes start and end. ``uss`` counts only unshared pages, and shows the growth of the process.
    """

    rss: float
    pss: float
    uss: float

    def __str__(self) -> str:
        return f"{self.rss:.1f}/{self.pss:.1f}/{self.uss:.1f}"


def memory(pid: int) -> Memory:
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        name, _, value = line.partition(":")
        kib[name] = int(value.split()[0])
    return Memory(kib["Rss"] / 1024, kib["Pss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024)


def resident_mib(pid: int) -> float:
    """Return the memory of a process. A shared page is divided among its processes (PSS)."""
    return memory(pid).pss


def cpu_us(pid: int) -> float:
    """Return the processor time of a process and its children so far, in microseconds."""
    total, pids = 0, [pid, *_children(pid)]
    for each in pids:
        for thread in Path(f"/proc/{each}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the process has ended
                total += int(thread.read_text(encoding="utf-8").split()[0])
    return total / 1000


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def keep(directory: Path, name: str, result: object) -> None:
    """Write a result as JSON beside the others of this run."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
