"""`relay accounts`."""

import argparse
import asyncio
from typing import Any

from services.cli.command import database_of, declare, print_json, print_table, settings_of


def add(commands: Any) -> None:
    """Declares them."""
    accounts = commands.add_parser("accounts", help="who may use the portal").add_subparsers(
        required=True, metavar="COMMAND"
    )
    declare(accounts, "list", _accounts_list, "list the portal's accounts", json=True)
    invite = declare(accounts, "invite", _accounts_invite, "print a link to make an account with", json=True)
    invite.add_argument("--note", default="", help="whom it is for")
    password = declare(accounts, "password", _accounts_password, "print a link to set a new password with", json=True)
    password.add_argument("email", metavar="EMAIL", help="of the account")


def _accounts_list(arguments: argparse.Namespace) -> int:
    from services.cli.accounts import list_accounts

    accounts = asyncio.run(list_accounts(database_of(arguments)))
    if arguments.json:
        print_json(accounts)
    elif not accounts:
        print("No account yet: the first person to open the portal makes one.")
    else:
        rows = [
            [
                str(a["email"]),
                "administrator" if a["isAdmin"] else "",
                "disabled" if a["disabledAt"] else "",
                str(a["name"]),
            ]
            for a in accounts
        ]
        print_table(["E-MAIL", "", "STATE", "NAME"], rows)
    return 0


def _accounts_invite(arguments: argparse.Namespace) -> int:
    from services.cli.accounts import invite

    settings = settings_of(arguments)
    return _print_link(arguments, asyncio.run(invite(settings, arguments.note)), "for seven days")


def _accounts_password(arguments: argparse.Namespace) -> int:
    from services.cli.accounts import password_link

    settings = settings_of(arguments)
    return _print_link(arguments, asyncio.run(password_link(settings, arguments.email)), "for a day")


def _print_link(arguments: argparse.Namespace, link: str, lifetime: str) -> int:
    if arguments.json:
        print_json({"link": link})
    else:
        print(f"{link}\nIt works once, {lifetime}.")
    return 0
