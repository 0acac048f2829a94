"""`relay up`, `relay api`, `relay worker` and `relay migrate`."""

import asyncio

import click

from services.cli.options import Invocation, Text, Whole, command


@command("up", "Run everything on this machine, with embedded Postgres and Redis.")
@click.option("--port", type=Whole(1, 65535), help="Port the API listens on. Default: PORT, else 3000.")
@click.option("--host", type=Text(), default="127.0.0.1", help="Address the API listens on.")
def up(invocation: Invocation, port: int | None, host: str) -> int:
    from services.local.up import up as run_all
    from shared.infra.settings import default_data_dir

    return asyncio.run(run_all(invocation.data_dir or default_data_dir(), port, host))


@command("api", "Run one API process, with settings from the environment.", data_dir=False)
def api(_: Invocation) -> int:
    from services.api.main import run

    return run()


@command("worker", "Run workers, with settings from the environment.", data_dir=False)
@click.option("--processes", type=Whole(1, 1000), default=1, help="Number of worker processes.")
def worker(_: Invocation, processes: int) -> int:
    from services.local.worker_pool import run_workers

    return asyncio.run(run_workers(processes))


@command("migrate", "Apply the database migrations, then stop.")
def migrate(invocation: Invocation) -> int:
    from services.cli.instance import database_of
    from shared.infra.migrations.startup import migrate_when_ready

    applied = migrate_when_ready(database_of(invocation))
    print("\n".join(f"applied {migration}" for migration in applied) or "nothing to apply")
    return 0
