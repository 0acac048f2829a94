"""What the settings alone tell."""

from collections.abc import Iterator

from services.cli.doctor.finding import Finding
from shared.infra.settings import Settings
from shared.infra.settings_risks import is_local as is_local
from shared.infra.settings_risks import risks_of


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Values and combinations that each service accepts and no deployment should have."""
    return (Finding("settings", *risk) for risk in risks_of(settings))
