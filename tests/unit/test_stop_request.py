"""The worker's request to stop: signals may arrive at any moment, many at once."""

import signal
import subprocess
import sys
import threading

from services.worker.stop_request import StopRequest

# Sends itself signals every 0.1 ms, while the main thread waits and sets.
_STORM = """
import signal, sys
from services.worker.stop_request import StopRequest
stop = StopRequest()
signal.signal(signal.SIGALRM, lambda *_: stop.set())
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
for _ in range(30_000):
    stop.set()
    assert stop.wait(1)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_stop_request_is_seen_once_set_and_stays_set() -> None:
    stop = StopRequest()
    assert not stop.wait(0.001)
    thread = threading.Thread(target=stop.set)
    thread.start()
    assert stop.wait(10)
    assert stop.wait(0)
    thread.join()


def test_signal_during_wait_or_set_does_not_block_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _STORM], timeout=60, check=False)
    assert done.returncode == 0, signal.strsignal(-done.returncode)
