"""A worker whose clock jumps. SIGUSR1 sets it ten minutes ahead, then ten minutes behind, then right."""

import itertools
import signal
import sys

from services.worker.main import run
from shared.infra.clock import SystemClock

_JUMPS_MS = itertools.cycle((600_000, -600_000, 0))
_right = SystemClock.now_ms
_offset_ms = 0


def _jump(_number: int, _frame: object) -> None:
    global _offset_ms
    _offset_ms = next(_JUMPS_MS)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _jump)
    SystemClock.now_ms = lambda self: _right(self) + _offset_ms  # type: ignore[method-assign]  # that is the fault
    sys.exit(run())
