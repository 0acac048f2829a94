"""Sign in and out."""

from datetime import datetime

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.http.access.unknown_key_limit import network_of
from services.api.portal.admission import safe_path
from services.api.portal.forms import Form
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.passwords import attempts
from services.api.portal.passwords.attempts import TooManyAttempts
from services.api.portal.passwords.hashing import Passwords
from services.api.portal.sign_in.service import known_client, start_session, subjects_of
from services.api.portal.transactions import Transactions
from shared.accounts.queries import accounts as queries
from shared.accounts.service import secret_digest
from shared.infra.postgres.pool import Connection
from shared.infra.settings import Settings

# How often a password is checked again because it changed during the check.
_ROUNDS = 3
_WRONG = "The address or the password is wrong."
_DISABLED = "This account is disabled. Ask an administrator of this Relay."


class SignInController(Controller):
    @get("/sign-in", opt={"public": True})
    async def form(
        self,
        page: NamedDependency[PageRequest],
        settings: NamedDependency[Settings],
        conn: NamedDependency[Connection],
    ) -> Page:
        wanted = safe_path(page.param("next"))
        if page.signed_in:
            return page.redirect(wanted)
        if not await queries.any_account(conn):
            return page.redirect("/sign-up")
        return page.render("sign_in.html", wanted=wanted, sign_up_open=settings.sign_up == "open")

    @post("/sign-in", opt={"public": True})
    async def sign_in(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        now: NamedDependency[datetime],
        settings: NamedDependency[Settings],
        transactions: NamedDependency[Transactions],
        passwords: NamedDependency[Passwords],
    ) -> Page:
        """Sign in. Holds no connection during the password check, because token requests use the same pool."""
        wanted, email, status = safe_path(form["next"]), form.email("email"), 422
        if not form["password"]:
            form.fail("password", "Enter your password.")
        if form.is_valid:
            try:
                if await _sign_in(page, form, email, now, transactions, passwords):
                    return page.redirect(wanted)
            except TooManyAttempts as error:
                form.fail("password", str(error))
                status = 429
        return page.render("sign_in.html", status=status, wanted=wanted, sign_up_open=settings.sign_up == "open")

    @post("/sign-out", opt={"public": True})
    async def sign_out(self, page: NamedDependency[PageRequest], conn: NamedDependency[Connection]) -> Page:
        if page.signed_in:
            await queries.delete_session(conn, secret_digest(page.browser))
        page.new_browser()
        return page.redirect("/sign-in")


async def _sign_in(
    page: PageRequest, form: Form, email: str, now: datetime, transactions: Transactions, passwords: Passwords
) -> bool:
    """Return whether the browser is signed in; if not, the form says why. Raises ``TooManyAttempts``."""
    async with transactions.writing() as conn:
        client = await known_client(page, conn, email)
        subjects = subjects_of(page, email, client)
        await attempts.count(conn, subjects, now)
        credentials = await queries.credentials(conn, email)
    unknown = None if client is not None else network_of(page.address)
    for _ in range(_ROUNDS):
        is_correct = await passwords.matches(credentials and credentials.password_hash, form["password"], unknown)
        if credentials is None or not is_correct:
            break
        renewed = None
        if passwords.is_outdated(credentials.password_hash):
            renewed = await passwords.hash(form["password"], unknown)
        async with transactions.writing() as conn:
            checked, credentials = credentials, await queries.lock_credentials(conn, credentials.account.account_id)
            if credentials is not None and credentials.account.disabled_at is not None:
                form.fail("email", _DISABLED)
                return False
            if credentials is not None and credentials.password_hash == checked.password_hash:
                await attempts.forgive(conn, subjects)
                await queries.delete_past_attempts(conn, now)
                if renewed is not None:
                    await queries.set_password_hash(conn, credentials.account.account_id, renewed)
                await start_session(page, conn, credentials.account, now)
                return True
        # The password changed during the check: check again.
    form.fail("password", _WRONG)
    return False
