"""Administer accounts: invite, disable, enable, make administrators."""

from datetime import datetime

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from services.api.portal.dependencies import Audit
from services.api.portal.forms import Form
from services.api.portal.notices import spoken
from services.api.portal.page_request import Page, PageRequest
from shared.accounts import service as accounts
from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships
from shared.accounts.service import Actor
from shared.errors import TooManyInvitations
from shared.infra.postgres.pool import Connection
from shared.infra.settings import Settings
from shared.models.accounts import Account


class InstanceAccountsController(Controller):
    path = "/instance/accounts"
    opt = {"instance_admin": True}  # noqa: RUF012  # Litestar declares it so

    @get()
    async def show(
        self,
        page: NamedDependency[PageRequest],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
    ) -> Page:
        return await _accounts_page(page, now, conn)

    @post("/invite")
    async def invite(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        actor: NamedDependency[Actor],
        settings: NamedDependency[Settings],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
    ) -> Page:
        note = form.text("note", "who it is for", longest=100)
        if not form.is_valid:
            return await _accounts_page(page, now, conn)
        try:
            secret = await accounts.invite(conn, actor, "sign_up", now, note=note)
        except TooManyInvitations as error:
            form.fail("note", spoken(error))
            return await _accounts_page(page, now, conn)
        page.clear_form()
        return await _accounts_page(page, now, conn, link=_link(settings, secret), link_for=note)

    @post("/withdraw")
    async def withdraw(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
    ) -> Page:
        if not await memberships.revoke_invitation(conn, form["invitation"], None, now):
            raise NotFoundException
        await audit.record("invitation_withdrawn")
        return page.redirect("/instance/accounts", done="invitation_withdrawn")

    @post("/{account_id:str}/password")
    async def password_link(
        self,
        page: NamedDependency[PageRequest],
        actor: NamedDependency[Actor],
        settings: NamedDependency[Settings],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        account_id: FromPath[str],
    ) -> Page:
        target = await _target(conn, account_id)
        email = target.email
        secret = await accounts.invite(conn, actor, "password", now, account_id=account_id, note=email)
        return await _accounts_page(page, now, conn, link=_link(settings, secret), link_for=email)

    @post("/{account_id:str}/disable", opt={"takes_rights": True})
    async def disable(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
        account_id: FromPath[str],
    ) -> Page:
        target = await _target(conn, account_id)
        if target.account_id == account.account_id:
            form.fail("accounts", "You cannot disable the account that you are signed in with.")
        # If two administrators disable each other at the same time, one remains.
        elif target.is_admin and target.disabled_at is None and await account_queries.count_admins(conn) < 2:
            form.fail("accounts", "At least one account must administer this Relay.")
        if not form.is_valid:
            return await _accounts_page(page, now, conn)
        await accounts.disable(conn, target.account_id, now)
        await audit.record("account_disabled", target=target.email)
        return page.redirect("/instance/accounts", done="account_disabled")

    @post("/{account_id:str}/enable")
    async def enable(
        self,
        page: NamedDependency[PageRequest],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
        account_id: FromPath[str],
    ) -> Page:
        target = await _target(conn, account_id)
        await account_queries.set_disabled(conn, target.account_id, None)
        await audit.record("account_enabled", target=target.email)
        return page.redirect("/instance/accounts", done="account_enabled")

    @post("/{account_id:str}/admin", opt={"takes_rights": True})
    async def admin(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
        account_id: FromPath[str],
    ) -> Page:
        """Make an account an administrator, or not. At least one account that can sign in stays one."""
        target = await _target(conn, account_id)
        given = form["admin"] == "yes"
        if not given and target.disabled_at is None and await account_queries.count_admins(conn) < 2:
            form.fail("accounts", "At least one account must administer this Relay. Give it to another account first.")
            return await _accounts_page(page, now, conn)
        await accounts.set_admin(conn, target.account_id, given, now)
        await audit.record("admin_given" if given else "admin_taken", target=target.email)
        if not given and target.account_id == account.account_id:
            return page.redirect("/projects", done="admin_taken")
        return page.redirect("/instance/accounts", done="admin_given" if given else "admin_taken")


async def _target(conn: Connection, account_id: str) -> Account:
    """Return the account in the path. Raises ``NotFoundException``."""
    account = await account_queries.account_by_id(conn, account_id)
    if account is None:
        raise NotFoundException
    return account


async def _accounts_page(
    page: PageRequest, now: datetime, conn: Connection, link: str | None = None, link_for: str = ""
) -> Page:
    known = await account_queries.list_accounts(conn)
    invitations = await memberships.open_invitations(conn, None, now)
    return page.render(
        "instance_accounts.html",
        status=None if link is None else 201,
        accounts=known,
        invitations=invitations,
        link=link,
        link_for=link_for,
    )


def _link(settings: Settings, secret: str) -> str:
    return f"{settings.relay_api_url}/invitations/{secret}"
