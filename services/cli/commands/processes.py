"""`relay up`, `api`, `worker` and `migrate`."""

import argparse
import asyncio
from typing import Any

from services.cli.command import bounded, database_of, declare
from shared.settings import default_data_dir


def add(commands: Any) -> None:
    """Declares them."""
    up = declare(commands, "up", _up, "run everything on this machine, with embedded Postgres and Redis")
    up.add_argument("--port", type=bounded(int, 1, 65535), help="where the API listens (default: PORT, else 3000)")
    up.add_argument("--host", default="127.0.0.1", help="the address the API listens on (default: %(default)s)")
    declare(commands, "api", _api, "run one API process, set up from the environment", data_dir=False)
    worker = declare(commands, "worker", _worker, "run workers, set up from the environment", data_dir=False)
    worker.add_argument("--processes", type=bounded(int, 1, 1000), default=1, help="how many (default: %(default)s)")
    declare(commands, "migrate", _migrate, "apply the database's migrations and stop")


def _up(arguments: argparse.Namespace) -> int:
    from services.local.up import up

    return asyncio.run(up(arguments.data_dir or default_data_dir(), arguments.port, arguments.host))


def _api(_: argparse.Namespace) -> int:
    from services.api.main import run

    return run()


def _worker(arguments: argparse.Namespace) -> int:
    from services.local.worker_pool import run_workers

    return asyncio.run(run_workers(arguments.processes))


def _migrate(arguments: argparse.Namespace) -> int:
    from shared.migrate import migrate

    applied = migrate(database_of(arguments))
    print("\n".join(f"applied {migration}" for migration in applied) or "nothing to apply")
    return 0
