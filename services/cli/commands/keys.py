"""`relay keys`."""

import argparse
import asyncio
from datetime import UTC, datetime
from typing import Any

from services.cli.command import database_of, declare, duration, print_json, print_table
from shared.models.projects import NewKey


def add(commands: Any) -> None:
    """Declares them."""
    keys = commands.add_parser("keys", help="create, list, rotate and revoke API keys").add_subparsers(
        required=True, metavar="COMMAND"
    )
    create = declare(keys, "create", _keys_create, "make a key, shown only now", json=True)
    create.add_argument("--project", required=True, metavar="ID", help="see `relay projects list`")
    create.add_argument("--mode", choices=("live", "test"), default="live", help="(default: %(default)s)")
    create.add_argument("--type", choices=("secret", "publishable"), default="secret", help="(default: %(default)s)")
    create.add_argument("--name", default="default", help="to tell keys apart (default: %(default)s)")
    create.add_argument("--expires", type=duration, metavar="TIME", help="after this time, like 90d, 12h or 30m")
    listing = declare(keys, "list", _keys_list, "list keys, without their secrets", json=True)
    listing.add_argument("--project", metavar="ID", help="only this project's")
    revoke = declare(keys, "revoke", _keys_revoke, "stop a key from working, everywhere within a second", json=True)
    revoke.add_argument("--and-made", action="store_true", help="also every key that was made with it over the API")
    rotate = declare(keys, "rotate", _keys_rotate, "replace a key; both work for a while", json=True)
    rotate.add_argument(
        "--grace",
        type=duration,
        default="24h",
        metavar="TIME",
        help="how long (default: %(default)s); 0 is not at all",
    )
    for command in (revoke, rotate):
        command.add_argument("key_id", metavar="KEY_ID", help="see `relay keys list`")


def _keys_create(arguments: argparse.Namespace) -> int:
    from services.cli.projects import create_key

    key = asyncio.run(
        create_key(
            database_of(arguments),
            arguments.project,
            arguments.mode,
            arguments.type,
            arguments.name,
            arguments.expires,
        )
    )
    return _print_new_key(arguments, key)


def _keys_rotate(arguments: argparse.Namespace) -> int:
    from services.cli.projects import rotate_key

    return _print_new_key(arguments, asyncio.run(rotate_key(database_of(arguments), arguments.key_id, arguments.grace)))


def _print_new_key(arguments: argparse.Namespace, key: NewKey) -> int:
    if arguments.json:
        print_json(key)
    else:
        until = f", until {key.expires_at:%F %T} UTC" if key.expires_at else ""
        print(f"{key.key}\nKey {key.key_id} ({key.mode}, {key.type}{until}); its secret is shown only now.")
    return 0


def _keys_list(arguments: argparse.Namespace) -> int:
    from services.cli.projects import list_keys

    keys = asyncio.run(list_keys(database_of(arguments), arguments.project))
    if arguments.json:
        print_json(keys)
    elif not keys:
        print("No keys yet. Make one with `relay keys create --project ID`.")
    else:
        now = datetime.now(UTC)
        rows = [
            [k.key_id, k.project_id, f"{k.prefix}…{k.last_four}", k.state(now), _at(k.expires_at), _at(k.last_used_at),
             k.created_by or "", k.rotated_to or "", k.name]
            for k in keys
        ]  # fmt: skip
        print_table(
            ["KEY ID", "PROJECT", "KEY", "STATE", "EXPIRES", "LAST USED", "MADE BY", "REPLACED BY", "NAME"], rows
        )
    return 0


def _at(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%F %R}"


def _keys_revoke(arguments: argparse.Namespace) -> int:
    from services.cli.projects import revoke_key, revoke_key_and_made

    database = database_of(arguments)
    if arguments.and_made:
        revoked = asyncio.run(revoke_key_and_made(database, arguments.key_id))
    else:
        revoked = [asyncio.run(revoke_key(database, arguments.key_id))]
    if arguments.json:
        print_json(revoked if arguments.and_made else revoked[0])
    else:
        for key in revoked:
            print(f"revoked {key.key_id} (…{key.last_four}) of project {key.project_id}")
    return 0
