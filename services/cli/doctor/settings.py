"""Checks that need nothing but the settings."""

from collections.abc import Iterator

from services.cli.doctor.finding import Finding
from shared.infra.settings import Settings
from shared.infra.settings_risks import is_local as is_local
from shared.infra.settings_risks import risks_of


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Report values that services accept, but that a deployment should not have."""
    return (Finding("settings", *risk) for risk in risks_of(settings))
