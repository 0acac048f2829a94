"""Run a worker process: `python -m services.worker.main`.

Any number of workers may run, on any number of machines.
"""

import gc
import logging
import signal
import sys
from contextlib import ExitStack

import dramatiq
from dramatiq.middleware import MiddlewareError

from services.worker.actors import register_actors
from services.worker.broker import Resources, create_worker_broker
from services.worker.health_server import probe
from services.worker.stop_request import StopRequest
from shared.errors import RelayError, SettingsInvalid
from shared.infra import metrics
from shared.infra.logs import set_up_logging
from shared.infra.migrations.startup import ensure_migrated
from shared.infra.redis.dramatiq_internals import dead_thread
from shared.infra.settings import load_settings
from shared.infra.settings_risks import log_risks
from shared.infra.tracing import set_up_tracing
from shared.infra.version import VERSION

# How long an idle consumer sleeps between two polls. Dramatiq's default of a second would be most of the delay between a
# webhook and its usage.
POLL_MS = 100
THREADS = 8
# A batch creates and frees some hundred thousand objects without cycles. With Python's default of 700, the garbage collector
# took a quarter of the worker's time.
GC_THRESHOLD = 50_000
STOP_TIMEOUT_MS = 20_000
# How often the process checks that the threads of Dramatiq still run.
CHECK_S = 1.0

log = logging.getLogger("relay.worker")


def run() -> int:
    """Run until SIGTERM or SIGINT, or until a background task or thread ends by itself.

    Returns the exit code. The running batch is finished first. The code is 2 for wrong settings and 1 for every other failure.
    """
    try:
        settings = load_settings()
        set_up_logging(settings.log_format, settings.log_level)
        log_risks(settings)
        metrics.describe_build("worker", VERSION)
        set_up_tracing(settings, "worker")
        ensure_migrated(settings.database)
    except SettingsInvalid as error:
        sys.stderr.write("".join(f"relay worker: {line}\n" for line in error.lines))
        return 2
    except RelayError as error:
        sys.stderr.write(f"relay worker: {error}\n")
        return 1
    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    resources = Resources(settings, on_failure=stop.set)
    broker = create_worker_broker(settings, resources)
    register_actors(broker, resources)
    worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=POLL_MS)
    with ExitStack() as open_probe:
        if settings.worker_port:
            try:
                open_probe.enter_context(probe(settings.host, settings.worker_port, resources.pulse))
            except OSError as error:
                sys.stderr.write(
                    f"relay worker: cannot listen on WORKER_PORT {settings.worker_port}: {error.strerror}\n"
                )
                return 1
        try:
            worker.start()
        except MiddlewareError as error:
            sys.stderr.write(f"relay worker: {error}\n")
            worker.stop(timeout=STOP_TIMEOUT_MS)  # ends the event loop's thread, which would keep the process alive
            return 1
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20)
        log.info("worker is ready")
        while not stop.wait(CHECK_S):
            if (ended := dead_thread(worker)) is not None:
                resources.fail(ended)
        log.info("worker is stopping")
        worker.stop(timeout=STOP_TIMEOUT_MS)
        log.info("worker has stopped")
    return 0 if resources.pulse.failed is None else 1


if __name__ == "__main__":
    sys.exit(run())
