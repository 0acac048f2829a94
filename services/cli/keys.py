"""`relay keys`: create, list, rotate and revoke API keys."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import get_args

import click

from services.cli.instance import database_of
from services.cli.options import Duration, Invocation, Text, command, group
from services.cli.output import print_json, print_table
from services.cli.projects import CREATED_BY, transaction
from shared.accounts.service import COMMAND_LINE, record_key
from shared.infra.ids import KeyType, Mode
from shared.infra.settings import DatabaseUrl
from shared.keys import service
from shared.models.projects import KeyInfo, NewKey

keys = group("keys", "Create, list, rotate and revoke API keys.")


async def create_key(
    database: DatabaseUrl,
    project_id: str,
    mode: Mode,
    key_type: KeyType,
    name: str,
    lifetime: timedelta | None = None,
) -> NewKey:
    """Create a key that expires after ``lifetime``, or never if that is None.

    Raises ``ProjectNotFound`` and the errors of ``shared.keys.service.create_key``.
    """
    now = datetime.now(UTC)
    async with transaction(database) as conn:
        expires_at = None if lifetime is None else now + lifetime
        created = await service.create_key(
            conn, project_id, mode, key_type, name, now, expires_at=expires_at, created_by=CREATED_BY
        )
        await record_key(conn, COMMAND_LINE, "key_created", created, now)
    return created


async def rotate_key(database: DatabaseUrl, key_id: str, grace: timedelta = service.DEFAULT_GRACE) -> NewKey:
    """Replace a key. Both keys work for ``grace``.

    Raises the errors of ``shared.keys.service.rotate_key``.
    """
    async with transaction(database) as conn:
        now = datetime.now(UTC)
        created = await service.rotate_key(conn, key_id, now, grace=grace, created_by=CREATED_BY)
        await record_key(conn, COMMAND_LINE, "key_rotated", created, now)
    return created


async def list_keys(database: DatabaseUrl, project_id: str | None) -> list[KeyInfo]:
    """List the keys of one project, or of all. Raises ``ProjectNotFound``."""
    async with transaction(database) as conn:
        return await service.list_keys(conn, project_id)


async def revoke_key(database: DatabaseUrl, key_id: str) -> KeyInfo:
    """Revoke a key; every API process refuses it within a second. Raises ``KeyNotFound``."""
    async with transaction(database) as conn:
        now = datetime.now(UTC)
        revoked = await service.revoke_key(conn, key_id, now)
        await record_key(conn, COMMAND_LINE, "key_revoked", revoked, now)
    return revoked


async def revoke_key_and_made(database: DatabaseUrl, key_id: str) -> list[KeyInfo]:
    """Revoke a key and all keys made with it. Raises ``KeyNotFound``."""
    async with transaction(database) as conn:
        now = datetime.now(UTC)
        revoked = await service.revoke_key_and_made(conn, key_id, now)
        for one in revoked:
            await record_key(conn, COMMAND_LINE, "key_revoked", one, now)
    return revoked


@command("create", "Create a key. It is shown only once, now.", of=keys, json=True)
@click.option("--project", type=Text(), required=True, metavar="ID", help="Project; see `relay projects list`.")
@click.option("--mode", type=click.Choice(get_args(Mode)), default="live", help="Mode of the key.")
@click.option("--type", "key_type", type=click.Choice(get_args(KeyType)), default="secret", help="Type of the key.")
@click.option("--name", type=Text(), default="default", help="Name by which people recognise the key.")
@click.option("--expires", type=Duration(), metavar="TIME", help="Time until the key expires.")
def create(
    invocation: Invocation, project: str, mode: Mode, key_type: KeyType, name: str, expires: timedelta | None
) -> int:
    key = asyncio.run(create_key(database_of(invocation), project, mode, key_type, name, expires))
    return _print_new_key(invocation, key)


@command("list", "List keys, without their secrets.", of=keys, json=True)
@click.option("--project", type=Text(), metavar="ID", help="List the keys of this project only.")
def listing(invocation: Invocation, project: str | None) -> int:
    found = asyncio.run(list_keys(database_of(invocation), project))
    if invocation.json:
        print_json(found)
    elif not found:
        print("No key yet. Create one with `relay keys create --project ID`.")
    else:
        now = datetime.now(UTC)
        rows = [
            [k.key_id, k.project_id, f"{k.prefix}…{k.last_four}", k.state(now), _at(k.expires_at), _at(k.last_used_at),
             k.created_by or "", k.rotated_to or "", k.name]
            for k in found
        ]  # fmt: skip
        print_table(
            ["KEY ID", "PROJECT", "KEY", "STATE", "EXPIRES", "LAST USED", "CREATED BY", "REPLACED BY", "NAME"], rows
        )
    return 0


@command(
    "revoke",
    "Revoke a key. Every process refuses it within a second.",
    more="`relay keys list` shows the KEY_ID.",
    of=keys,
    json=True,
)
@click.option("--and-made", is_flag=True, help="Also revoke every key that was created with it over the API.")
@click.argument("key_id", metavar="KEY_ID", type=Text())
def revoke(invocation: Invocation, key_id: str, and_made: bool) -> int:
    database = database_of(invocation)
    work = revoke_key_and_made(database, key_id) if and_made else _revoke_one(database, key_id)
    revoked = asyncio.run(work)
    if invocation.json:
        print_json(revoked if and_made else revoked[0])
    else:
        for key in revoked:
            print(f"revoked {key.key_id} (…{key.last_four}) of project {key.project_id}")
    return 0


@command(
    "rotate",
    "Replace a key. The old key still works for a while.",
    more="`relay keys list` shows the KEY_ID.",
    of=keys,
    json=True,
)
@click.option(
    "--grace",
    type=Duration(),
    default="24h",
    metavar="TIME",
    help="Time for which the old key still works; 0 ends it now.",
)
@click.argument("key_id", metavar="KEY_ID", type=Text())
def rotate(invocation: Invocation, key_id: str, grace: timedelta) -> int:
    return _print_new_key(invocation, asyncio.run(rotate_key(database_of(invocation), key_id, grace)))


async def _revoke_one(database: DatabaseUrl, key_id: str) -> list[KeyInfo]:
    return [await revoke_key(database, key_id)]


def _print_new_key(invocation: Invocation, key: NewKey) -> int:
    if invocation.json:
        print_json(key)
    else:
        until = f", until {key.expires_at:%F %T} UTC" if key.expires_at else ""
        print(f"{key.key}\nKey {key.key_id} ({key.mode}, {key.type}{until}); it is shown only once, now.")
    return 0


def _at(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%F %R}"
