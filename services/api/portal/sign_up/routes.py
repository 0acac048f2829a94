"""Create an account, and serve one-time links: to sign up, to join a project, to set a password."""

from datetime import datetime

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from services.api.portal.forms import Form
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.passwords.hashing import Passwords
from services.api.portal.sign_up.service import create_account, set_password
from services.api.portal.transactions import Transactions
from shared.accounts import service as accounts
from shared.accounts.queries import accounts as queries
from shared.errors import InvitationUnusable, SignUpClosed
from shared.infra.postgres.pool import Connection
from shared.infra.settings import Settings
from shared.models.accounts import Invitation


class SignUpController(Controller):
    path = "/sign-up"

    @get(opt={"public": True})
    async def form(
        self,
        page: NamedDependency[PageRequest],
        settings: NamedDependency[Settings],
        conn: NamedDependency[Connection],
    ) -> Page:
        if page.signed_in:
            return page.redirect("/projects")
        if not await accounts.sign_up_is_open(conn, settings.sign_up):
            return page.render("sign_up_closed.html")
        return _sign_up_page(page, first=not await queries.any_account(conn))

    @post(opt={"public": True})
    async def sign_up(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        now: NamedDependency[datetime],
        settings: NamedDependency[Settings],
        transactions: NamedDependency[Transactions],
        passwords: NamedDependency[Passwords],
    ) -> Page:
        async with transactions.reading() as conn:
            if not await accounts.sign_up_is_open(conn, settings.sign_up):
                return page.render("sign_up_closed.html", status=403)
            first = not await queries.any_account(conn)
        try:
            created = await create_account(page, form, now, settings.sign_up, transactions, passwords, invitation=None)
        except SignUpClosed:  # another person created the first account in the meantime
            return page.render("sign_up_closed.html", status=403)
        return page.redirect("/projects") if created else _sign_up_page(page, first=first)


class InvitationController(Controller):
    path = "/invitations/{secret:str}"

    @get(opt={"public": True})
    async def show(
        self,
        page: NamedDependency[PageRequest],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        secret: FromPath[str],
    ) -> Page:
        try:
            invitation = await accounts.usable_invitation(conn, secret, now)
        except InvitationUnusable:
            return page.render("invitation_unusable.html", status=410)
        return _invitation_page(page, invitation, secret)

    @post(opt={"public": True})
    async def accept(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        now: NamedDependency[datetime],
        settings: NamedDependency[Settings],
        transactions: NamedDependency[Transactions],
        passwords: NamedDependency[Passwords],
        secret: FromPath[str],
    ) -> Page:
        try:
            async with transactions.reading() as conn:
                invitation = await accounts.usable_invitation(conn, secret, now)
            if invitation.purpose == "password":
                if await set_password(page, form, now, transactions, passwords, secret):
                    return page.redirect("/sign-in", done="password_set")
                return _invitation_page(page, invitation, secret)
            if page.account is not None:
                async with transactions.writing() as conn:
                    await accounts.accept_invitation(conn, page.account, secret, now)
            elif not await create_account(
                page, form, now, settings.sign_up, transactions, passwords, invitation=secret
            ):
                return _invitation_page(page, invitation, secret)
        except InvitationUnusable:
            return page.render("invitation_unusable.html", status=410)
        if invitation.project_id is None:
            return page.redirect("/projects")
        return page.redirect(f"/projects/{invitation.project_id}", done="joined")


def _sign_up_page(page: PageRequest, *, first: bool) -> Page:
    return page.render("sign_up.html", first=first, invitation=None, action="/sign-up")


def _invitation_page(page: PageRequest, invitation: Invitation, secret: str) -> Page:
    action = f"/invitations/{secret}"
    if invitation.purpose == "password":
        return page.render("set_password.html", action=action)
    if page.signed_in:
        return page.render("join.html", invitation=invitation, action=action)
    return page.render("sign_up.html", first=False, invitation=invitation, action=action)
