"""The ids of the migrations that this code needs, from the folder `migrations`."""

from pathlib import Path

MIGRATIONS = Path(__file__).resolve().parents[3] / "migrations"


def known_migrations() -> list[str]:
    """Return the ids of all migrations, oldest first."""
    return sorted(path.name.removesuffix(".sql") for path in MIGRATIONS.glob("*.sql") if ".rollback." not in path.name)


def latest_migration() -> str:
    """Return the id of the newest migration."""
    return known_migrations()[-1]
