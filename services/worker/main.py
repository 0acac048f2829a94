"""One worker process: `python -m services.worker.main`. Start as many as wanted, on as many machines as wanted."""

import logging
import signal
import sys
import threading

import dramatiq
import psycopg
from dramatiq.middleware import MiddlewareError

from services.worker.actors import register_actors
from services.worker.broker import Resources, create_worker_broker
from shared.errors import RelayError, SettingsInvalid
from shared.migrate import migrate
from shared.settings import load_settings

# How long an idle consumer may sleep before it looks again; Dramatiq's default of a second would be most of the delay
# between a webhook and its usage.
POLL_MS = 100
THREADS = 8
STOP_TIMEOUT_MS = 30_000

log = logging.getLogger("relay.worker")


def run() -> int:
    """Runs until SIGTERM or SIGINT; the batch in hand is finished first. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("dramatiq").setLevel(logging.WARNING)
    try:
        settings = load_settings()
        migrate(settings.database)
    except SettingsInvalid as error:
        sys.stderr.write("".join(f"relay worker: {line}\n" for line in error.lines))
        return 2
    except RelayError as error:
        sys.stderr.write(f"relay worker: {error}\n")
        return 1
    except psycopg.OperationalError:
        sys.stderr.write("relay worker: cannot reach Postgres at DATABASE_URL\n")
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    resources = Resources(settings)
    broker = create_worker_broker(settings, resources)
    register_actors(broker, resources)
    worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=POLL_MS)
    try:
        worker.start()
    except MiddlewareError as error:
        sys.stderr.write(f"relay worker: {error}\n")
        return 1
    log.info("worker is ready")
    stop.wait()
    log.info("worker is stopping")
    worker.stop(timeout=STOP_TIMEOUT_MS)
    return 0


if __name__ == "__main__":
    sys.exit(run())
