"""SQL about the schema: the lock of a migration, missing rights and applied migrations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared.infra.postgres.pool import Connection

if TYPE_CHECKING:  # only migrations need this driver
    import psycopg


def try_migration_lock(conn: "psycopg.Connection[tuple[Any, ...]]", schema: str) -> bool:
    """Try to become the only process that migrates this schema.

    The lock belongs to the transaction and ends with it, whatever happens to the session. The transaction is idle while the
    migrations run.
    """
    conn.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock(hashtext('relay_migrate'), hashtext(%s))", (schema,)
    ).fetchone()
    return row is not None and bool(row[0])


def migration_lock_holder(conn: "psycopg.Connection[tuple[Any, ...]]", schema: str) -> str:
    """Describe the process that migrates this schema now, for an error message."""
    row = conn.execute(
        """
        SELECT format('%%s (process %%s of Postgres, connected since %%s)', a.application_name, a.pid, a.backend_start)
        FROM pg_locks AS l
        JOIN pg_stat_activity AS a USING (pid)
        WHERE l.locktype = 'advisory'
            AND l.granted
            AND l.objsubid = 2
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.classid::bigint = hashtext('relay_migrate')::bigint & 4294967295
            AND l.objid::bigint = hashtext(%s)::bigint & 4294967295
        """,
        (schema,),
    ).fetchone()
    return "another process" if row is None else str(row[0])


def missing_right(conn: "psycopg.Connection[tuple[Any, ...]]", schema: str | None) -> tuple[str, str] | None:
    """Return the role and the grant that it needs to create tables in ``schema``, or None if it may.

    ``schema`` None: the schema in which the session creates tables.
    """
    row = conn.execute(
        """
        SELECT
            current_user,
            quote_ident(current_user),
            quote_ident(coalesce(%(schema)s, current_schema(), 'public')),
            has_database_privilege(current_database(), 'CREATE'),
            (
                SELECT has_schema_privilege(oid, 'CREATE')
                FROM pg_namespace
                WHERE nspname = coalesce(%(schema)s, current_schema(), 'public')
            )
        """,
        {"schema": schema},
    ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has a row
    role, quoted_role, quoted_schema, may_make_schemas, may_make_tables = row
    if may_make_tables is None and may_make_schemas:
        return None
    if may_make_tables is None:
        return role, f"CREATE SCHEMA {quoted_schema} AUTHORIZATION {quoted_role}"
    return None if may_make_tables else (role, f"GRANT USAGE, CREATE ON SCHEMA {quoted_schema} TO {quoted_role}")


async def missing_migrations(conn: Connection, known: Sequence[str]) -> list[str]:
    """Return the ids in ``known`` that are not applied: all of them on a database that was never migrated."""
    if await conn.fetchval("SELECT to_regclass('_yoyo_migration')") is None:
        return list(known)
    rows = await conn.fetch(
        "SELECT migration_id FROM _yoyo_migration WHERE migration_id = ANY($1::text[])", list(known)
    )
    applied = {row[0] for row in rows}
    return [name for name in known if name not in applied]
