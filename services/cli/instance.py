"""Finds the Relay a command is about: the one in the data directory, or the one the environment names."""

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
    """Settings of the instance in the data directory. A variable of the environment comes before a stored one."""
    return DataDir(invocation.data_dir or default_data_dir()).environment()


def database_of(invocation: Invocation) -> DatabaseUrl:
    """The instance's database. Raises ``SettingsInvalid`` if there is no instance."""
    url = environment_of(invocation).get("DATABASE_URL", "")
    if not url:
        raise SettingsInvalid(["no Relay runs here: start `relay up`, name its --data-dir, or set DATABASE_URL"])
    return parse_database_url(url)


def settings_of(invocation: Invocation) -> Settings:
    """All settings of the instance. Raises ``SettingsInvalid``."""
    return load_settings({**environment(), **environment_of(invocation)})
