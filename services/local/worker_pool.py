"""`relay worker --processes N`: run several workers under one supervisor."""

from services.local.supervisor import Supervisor
from services.local.up import service
from shared.infra.settings import inherited_environment, load_settings


async def run_workers(processes: int) -> int:
    """Run workers until SIGINT or SIGTERM, and restart those that crash. Return the exit code.

    Raises ``SettingsInvalid`` before any is started; otherwise every worker would crash again and again.
    """
    if processes < 1:
        raise ValueError("processes must be at least 1")
    first_port = load_settings().worker_port
    supervisor = Supervisor()
    with supervisor.handling_signals():
        async with supervisor:
            for number in range(1, processes + 1):
                # Each worker serves its health checks on a different port. Port 0 switches them off for all.
                port = {"WORKER_PORT": str(first_port + number - 1)} if first_port else {}
                await supervisor.start(service(f"worker-{number}", "worker", inherited_environment(port)))
            await supervisor.stop_requested.wait()
    return 0
