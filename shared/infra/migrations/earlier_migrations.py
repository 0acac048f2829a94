"""Carry over databases of unreleased versions, whose migrations were numbered differently.

The migrations up to 0008 create the same schema as the earlier ones. A database that has all of the earlier ones needs no
change: the new ones are marked as applied. The marks of the earlier ones stay, so that processes of the previous version still
find a complete database during an update.
"""

import logging
from typing import Any, Final

from yoyo.migrations import Migration, MigrationList, get_migration_hash

from shared.errors import RelayError

log = logging.getLogger(__name__)

EARLIER: Final = (
    "0001.projects-and-keys",
    "0002.events",
    "0003.sessions-and-rollups",
    "0004.reconciliation-and-more-meters",
    "0005.periodic-jobs",
    "0005.reconciliation",
    "0006.event-retention",
    "0007.usage-by-room-and-identity",
    "0008.key-lineage-and-archived-projects",
    "0009.idempotency",
    "0010.accounts",
    "0013.workers",
    "0014.an-index-for-each-question",
    "0055.peaks-by-second",
    "0107.usage-by-day",
)
EQUIVALENT: Final = (
    "0001.projects-and-api-keys",
    "0002.received-events",
    "0003.sessions-rooms-and-media-runs",
    "0004.usage-rollups",
    "0005.reconciliation-state",
    "0006.workers-and-jobs",
    "0007.idempotency-keys",
    "0008.accounts-and-audit-log",
)
LAST_WITH_EARLIER: Final = "18d02f7"


class EarlierDatabaseIncomplete(RelayError):
    """The database has only some of the earlier migrations. ``missing``: the ids of the others."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(
            f"an unreleased version of Relay made this database, and {len(missing)} of its {len(EARLIER)} migrations are"
            f" not applied (first: {missing[0]}). To keep its data, check out commit {LAST_WITH_EARLIER}, run"
            " `relay migrate` there, and start this version again. To start without its data, set DATABASE_URL to an empty"
            " database."
        )
        self.missing = missing


def carry_over(backend: Any, migrations: MigrationList) -> bool:
    """Mark ``EQUIVALENT`` as applied on a database that has all of ``EARLIER``, and return whether it did.

    ``backend``: yoyo's backend, locked. Does nothing on an empty or a current database. Raises
    ``EarlierDatabaseIncomplete``.
    """
    applied = set(backend.get_applied_migration_hashes())
    missing = [name for name in EARLIER if get_migration_hash(name) not in applied]
    unmarked = [m for m in migrations if m.id in EQUIVALENT and m.hash not in applied]
    if not unmarked or len(missing) == len(EARLIER):
        return False
    if missing:
        raise EarlierDatabaseIncomplete(missing)
    backend.mark_migrations(unmarked)
    log.info(
        "this database has the schema of an unreleased version, which is current: %d migrations marked as applied",
        len(unmarked),
    )
    return True


def forget_earlier(backend: Any) -> None:
    """Remove the marks of the earlier migrations, after a complete rollback."""
    backend.unmark_migrations([Migration(name, f"{name}.sql", "") for name in EARLIER])
