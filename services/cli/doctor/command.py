"""Run all checks of `relay doctor` and print the report. The checks change nothing."""

import asyncio
from pathlib import Path

from services.cli.doctor.finding import Finding, Report, report_of
from services.cli.doctor.livekit_config import check_livekit_config
from services.cli.doctor.network import check_livekit, check_own_address
from services.cli.doctor.postgres import check_postgres
from services.cli.doctor.redis_servers import check_redis
from services.cli.doctor.settings import check_settings
from shared.infra.clock import Clock, SystemClock
from shared.infra.settings import Settings

MARKS = {"ok": "ok     ", "note": "note   ", "warning": "WARNING", "error": "ERROR  "}


async def examine(settings: Settings, livekit_config: Path | None = None, clock: Clock | None = None) -> Report:
    """Run all checks and report them in the order in which an operator would ask."""
    clock = clock or SystemClock()
    now_ms = clock.now_ms()
    groups = await asyncio.gather(
        check_postgres(settings, now_ms),
        check_redis(settings, now_ms),
        check_livekit(settings, clock),
        check_own_address(settings, now_ms),
    )
    findings = list(check_settings(settings)) or [Finding("settings", "ok", "complete, and no value looks wrong")]
    for group in groups:
        findings += group
    if livekit_config is not None:
        findings += check_livekit_config(livekit_config, settings)
    return report_of(findings)


def printed(report: Report) -> str:
    """Format the report as text: one line a finding, with the advice below it."""
    width = max(len(finding.check) for finding in report.findings)
    lines: list[str] = []
    for finding in report.findings:
        lines.append(f"{MARKS[finding.level]}  {finding.check.ljust(width)}  {finding.fact}")
        if finding.advice:
            lines.append(f"{' ' * (len(MARKS['ok']) + width + 4)}→ {finding.advice}")
    errors = sum(finding.level == "error" for finding in report.findings)
    warnings = sum(finding.level == "warning" for finding in report.findings)
    return "\n".join([*lines, "", f"errors: {errors}, warnings: {warnings}"])
