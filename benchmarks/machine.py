"""The machine, the spread of repeated measurements, and how results are printed."""

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
    """Processor, cores, memory, kernel and Python, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or "unknown processor",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}; load average {os.getloadavg()[0]:.1f}"


def resident_mib(pid: int) -> float:
    """Memory that a process holds, shared pages counted once among those who share them (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel tells no memory of process {pid}")


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def keep(directory: Path, name: str, result: object) -> None:
    """Writes a result beside the others of this run, as JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
