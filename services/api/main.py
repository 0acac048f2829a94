"""Run an API process: `python -m services.api.main`."""

import asyncio
import sys

import uvloop

from services.api.app import HOT_PATHS, create_app
from services.api.http.serving.server import Drain, Server, server_config
from shared.errors import RelayError, SettingsInvalid
from shared.infra import metrics
from shared.infra.logs import set_up_logging
from shared.infra.migrations.startup import ensure_migrated
from shared.infra.settings import Settings, load_settings
from shared.infra.settings_risks import log_risks
from shared.infra.tracing import set_up_tracing, traced_app
from shared.infra.version import VERSION

# How long another thread may keep the interpreter from the event loop. Python's 5 ms, in each turn of the loop, would make
# requests wait for a second while the API reference is built.
SWITCH_INTERVAL_S = 0.0005


def run() -> int:
    """Serve until SIGTERM or SIGINT, then finish the requests in progress. Returns the exit code."""
    try:
        settings = load_settings()
        set_up_logging(settings.log_format, settings.log_level)
        log_risks(settings)
        metrics.describe_build("api", VERSION)
        set_up_tracing(settings, "api")
        ensure_migrated(settings.database)
    except SettingsInvalid as error:
        sys.stderr.write("".join(f"relay api: {line}\n" for line in error.lines))
        return 2
    except RelayError as error:
        sys.stderr.write(f"relay api: {error}\n")
        return 1
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    drain = Drain()
    app = create_app(settings, drain=drain)
    config = server_config(
        traced_app(app, HOT_PATHS),
        is_known=app.is_known,
        host=settings.host,
        port=settings.port,
        forwarded_allow_ips=list(settings.trusted_proxies),
    )
    server = Server(config, drain, settings.drain_s)
    await server.serve()
    return 0 if server.started and drain.failed is None else 1


if __name__ == "__main__":
    sys.exit(run())
