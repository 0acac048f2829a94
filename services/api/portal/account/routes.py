"""Show and change the signed-in account: name, password, signed-in browsers."""

from datetime import datetime

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.portal.dependencies import Audit
from services.api.portal.forms import Form
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.passwords import attempts
from services.api.portal.passwords.attempts import TooManyAttempts
from services.api.portal.passwords.hashing import Passwords
from services.api.portal.passwords.rules import objection_to
from services.api.portal.transactions import Transactions
from shared.accounts import service as accounts
from shared.accounts.queries import accounts as queries
from shared.infra.postgres.pool import Connection
from shared.models.accounts import Account, BrowserSession

_NOT_CURRENT = "This is not your current password."


class AccountController(Controller):
    path = "/account"

    @get()
    async def show(
        self,
        page: NamedDependency[PageRequest],
        account: NamedDependency[Account],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
    ) -> Page:
        return await _account_page(page, account, now, conn)

    @post("/name")
    async def rename(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
    ) -> Page:
        name = form.text("name", "your name", longest=100)
        if not form.is_valid:
            return await _account_page(page, account, now, conn)
        await queries.set_name(conn, account.account_id, name)
        return page.redirect("/account", done="name_changed")

    @post("/password")
    async def change_password(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        session: NamedDependency[BrowserSession],
        now: NamedDependency[datetime],
        transactions: NamedDependency[Transactions],
        passwords: NamedDependency[Passwords],
    ) -> Page:
        """Change the password. Holds no connection during hashing, because token requests use the same pool."""
        status = 422
        objection = objection_to(form["password"], account.email)
        if objection is not None:
            form.fail("password", objection)
        else:
            try:
                changed = await _change_password(form, account, session, now, transactions, passwords)
            except TooManyAttempts as error:
                form.fail("present", str(error))
                status, changed = 429, False
            if changed:
                page.remember_device(account.email)
                return page.redirect("/account", done="password_changed")
        async with transactions.reading() as conn:
            return await _account_page(page, account, now, conn, status=status)

    @post("/sign-out-everywhere")
    async def sign_out_everywhere(
        self,
        page: NamedDependency[PageRequest],
        account: NamedDependency[Account],
        session: NamedDependency[BrowserSession],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
    ) -> Page:
        await queries.delete_sessions_of(conn, account.account_id, keep=session.digest)
        await audit.record("signed_out_everywhere", target=account.email)
        return page.redirect("/account", done="signed_out_elsewhere")

    @post("/end-session")
    async def end_session(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
    ) -> Page:
        for session in await queries.sessions_of(conn, account.account_id, now):
            if session.digest.hex() == form["session"]:
                await queries.delete_session(conn, session.digest)
        return page.redirect("/account", done="session_ended")


async def _change_password(
    form: Form,
    account: Account,
    session: BrowserSession,
    now: datetime,
    transactions: Transactions,
    passwords: Passwords,
) -> bool:
    """Return whether the password was changed; if not, the form says why. Raises ``TooManyAttempts``."""
    subjects = attempts.subjects_of_account_page(account.account_id)
    async with transactions.writing() as conn:
        await attempts.count(conn, subjects, now)
        found = await queries.credentials(conn, account.email)
    if not await passwords.matches(found and found.password_hash, form["present"]):
        form.fail("present", _NOT_CURRENT)
        return False
    password_hash = await passwords.hash(form["password"])
    async with transactions.writing() as conn:
        await attempts.forgive(conn, subjects)
        current = await queries.lock_credentials(conn, account.account_id)
        if current is None or found is None or current.password_hash != found.password_hash:
            form.fail("present", _NOT_CURRENT)  # it changed during the check
            return False
        await accounts.change_password(conn, account, password_hash, now, keep=session.digest)
    return True


async def _account_page(
    page: PageRequest, account: Account, now: datetime, conn: Connection, status: int | None = None
) -> Page:
    sessions = await queries.sessions_of(conn, account.account_id, now)
    return page.render("account.html", status=status, sessions=sessions)
