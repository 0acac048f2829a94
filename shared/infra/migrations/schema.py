"""What the database must hold for this code: the migrations in the folder `migrations`."""

from pathlib import Path

MIGRATIONS = Path(__file__).resolve().parents[3] / "migrations"


def known_migrations() -> list[str]:
    """The ids of all migrations this code knows, oldest first."""
    return sorted(path.name.removesuffix(".sql") for path in MIGRATIONS.glob("*.sql") if ".rollback." not in path.name)


def latest_migration() -> str:
    """The id of the newest migration this code knows."""
    return known_migrations()[-1]
