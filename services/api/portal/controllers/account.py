"""One's own account: name, password, signed-in browsers."""

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.portal import throttle
from services.api.portal.password_rules import objection_to
from services.api.portal.throttle import TooManyAttempts
from services.api.portal.visit import Page, Visit
from shared.accounts import service as accounts
from shared.accounts.queries import accounts as queries
from shared.infra.postgres.pool import borrowed

_NOT_PRESENT = "This is not your present password."


class AccountController(Controller):
    path = "/account"

    @get()
    async def show(self, visit: NamedDependency[Visit]) -> Page:
        return await _page(visit)

    @post("/name")
    async def rename(self, visit: NamedDependency[Visit]) -> Page:
        name = visit.form.text("name", "your name", longest=100)
        if not visit.form.is_valid:
            return await _page(visit, status=422)
        async with visit.writing() as conn:
            await queries.set_name(conn, visit.account.account_id, name)
        return visit.redirect("/account", done="name_changed")

    @post("/password")
    async def change_password(self, visit: NamedDependency[Visit]) -> Page:
        account, new = visit.account, visit.form["password"]
        objection = objection_to(new, account.email)
        if objection is not None:
            visit.form.fail("password", objection)
            return await _page(visit, status=422)
        subjects = throttle.subjects_of_account_page(account.account_id)
        try:
            async with borrowed(visit.portal.pool) as conn:
                await throttle.count(conn, subjects, visit.now)
                found = await queries.credentials(conn, account.email)
        except TooManyAttempts as error:
            visit.form.fail("present", str(error))
            return await _page(visit, status=429)
        if not await visit.portal.passwords.matches(found and found.password_hash, visit.form["present"]):
            visit.form.fail("present", _NOT_PRESENT)
            return await _page(visit, status=422)
        password_hash = await visit.portal.passwords.hash(new)
        async with visit.writing() as conn:
            await throttle.forgive(conn, subjects)
            current = await queries.lock_credentials(conn, account.account_id)
            if current is None or found is None or current.password_hash != found.password_hash:
                visit.form.fail("present", _NOT_PRESENT)  # it was changed while it was checked
            else:
                await accounts.change_password(conn, account, password_hash, visit.now, keep=visit.session.digest)
                visit.remember_device(account.email)
        if not visit.form.is_valid:
            return await _page(visit, status=422)
        return visit.redirect("/account", done="password_changed")

    @post("/sign-out-everywhere")
    async def sign_out_everywhere(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.writing() as conn:
            await queries.delete_sessions_of(conn, visit.account.account_id, keep=visit.session.digest)
            await accounts.record(conn, visit.actor, "signed_out_everywhere", visit.now, target=visit.account.email)
        return visit.redirect("/account", done="signed_out_elsewhere")

    @post("/end-session")
    async def end_session(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.writing() as conn:
            for session in await queries.sessions_of(conn, visit.account.account_id, visit.now):
                if session.digest.hex() == visit.form["session"]:
                    await queries.delete_session(conn, session.digest)
        return visit.redirect("/account", done="session_ended")


async def _page(visit: Visit, status: int = 200) -> Page:
    async with visit.reading() as conn:
        sessions = await queries.sessions_of(conn, visit.account.account_id, visit.now)
    return visit.page("account.html", status=status, sessions=sessions)
