"""Find the Relay that a command works on: in the data directory, or named by the environment."""

from services.cli.options import Invocation
from services.local.data_dir import DataDir
from shared.errors import SettingsInvalid
from shared.infra.settings import (
    DatabaseUrl,
    Settings,
    default_data_dir,
    environment,
    load_settings,
    parse_database_url,
)


def environment_of(invocation: Invocation) -> dict[str, str]:
    """Return the settings of the instance in the data directory. The environment overrides them."""
    return DataDir(invocation.data_dir or default_data_dir()).environment()


def database_of(invocation: Invocation) -> DatabaseUrl:
    """Return the instance's database. Raises ``SettingsInvalid`` if there is no instance."""
    url = environment_of(invocation).get("DATABASE_URL", "")
    if not url:
        raise SettingsInvalid(
            ["found no Relay in the data directory: start `relay up`, name its --data-dir, or set DATABASE_URL"]
        )
    return parse_database_url(url)


def settings_of(invocation: Invocation) -> Settings:
    """Return all settings of the instance. Raises ``SettingsInvalid``."""
    return load_settings({**environment(), **environment_of(invocation)})
