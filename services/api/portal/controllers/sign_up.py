"""Making an account, and the links that are used once: to sign up, to join a project, to set a password."""

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from services.api.http.access.unknown_key_limit import network_of
from services.api.portal import throttle
from services.api.portal.controllers.sign_in import address_of, start_session
from services.api.portal.password_rules import objection_to
from services.api.portal.throttle import TooManyAttempts
from services.api.portal.visit import Page, Visit
from shared.accounts import service as accounts
from shared.accounts.queries import accounts as queries
from shared.errors import AddressTaken, InvitationUnusable, SignUpClosed
from shared.infra.postgres.pool import borrowed
from shared.models.accounts import Account, Invitation


class SignUpController(Controller):
    @get("/sign-up", opt={"public": True})
    async def form(self, visit: NamedDependency[Visit]) -> Page:
        if visit.signed_in:
            return visit.redirect("/projects")
        async with visit.reading() as conn:
            if not await accounts.sign_up_is_open(conn, visit.portal.settings.sign_up):
                return visit.page("sign_up_closed.html")
            first = not await queries.any_account(conn)
        return visit.page("sign_up.html", first=first, invitation=None, action="/sign-up")

    @post("/sign-up", opt={"public": True})
    async def sign_up(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.reading() as conn:
            if not await accounts.sign_up_is_open(conn, visit.portal.settings.sign_up):
                return visit.page("sign_up_closed.html", status=403)
            first = not await queries.any_account(conn)
        try:
            if await _make_account(visit, None) is not None:
                return visit.redirect("/projects")
        except SignUpClosed:  # somebody else was first
            return visit.page("sign_up_closed.html", status=403)
        return visit.page("sign_up.html", status=422, first=first, invitation=None, action="/sign-up")

    @get("/invitations/{secret:str}", opt={"public": True})
    async def invitation(self, visit: NamedDependency[Visit], secret: FromPath[str]) -> Page:
        async with visit.reading() as conn:
            try:
                invitation = await accounts.usable_invitation(conn, secret, visit.now)
            except InvitationUnusable:
                return visit.page("invitation_unusable.html", status=410)
        return _invitation_page(visit, invitation, secret)

    @post("/invitations/{secret:str}", opt={"public": True})
    async def accept(self, visit: NamedDependency[Visit], secret: FromPath[str]) -> Page:
        try:
            async with visit.reading() as conn:
                invitation = await accounts.usable_invitation(conn, secret, visit.now)
            if invitation.purpose == "password":
                return await _set_password(visit, invitation, secret)
            if visit.signed_in:
                async with visit.writing() as conn:
                    await accounts.accept_invitation(conn, visit.account, secret, visit.now)
            elif await _make_account(visit, secret) is None:
                return _invitation_page(visit, invitation, secret, status=422)
        except InvitationUnusable:
            return visit.page("invitation_unusable.html", status=410)
        if invitation.project_id is None:
            return visit.redirect("/projects")
        return visit.redirect(f"/projects/{invitation.project_id}", done="joined")


def _invitation_page(visit: Visit, invitation: Invitation, secret: str, status: int = 200) -> Page:
    action = f"/invitations/{secret}"
    if invitation.purpose == "password":
        return visit.page("set_password.html", status=status, action=action)
    if visit.signed_in:
        return visit.page("join.html", status=status, invitation=invitation, action=action)
    return visit.page("sign_up.html", status=status, first=False, invitation=invitation, action=action)


async def _make_account(visit: Visit, invitation: str | None) -> Account | None:
    """The new account, signed in, or None where the form needs another look."""
    name = visit.form.text("name", "your name", longest=100)
    email, password = visit.form.email("email"), _new_password(visit, visit.form["email"])
    if not visit.form.is_valid:
        return None
    subjects = throttle.subjects_of_sign_up(address_of(visit))
    try:
        async with borrowed(visit.portal.pool) as conn:
            await throttle.count(conn, subjects, visit.now)
    except TooManyAttempts as error:
        visit.form.fail("password", str(error))
        return None
    password_hash = await visit.portal.passwords.hash(password, network_of(address_of(visit)))
    rule = visit.portal.settings.sign_up
    try:
        async with visit.writing() as conn:
            account = await accounts.sign_up(
                conn, email, name, password_hash, visit.now, rule=rule, invitation=invitation
            )
            await start_session(visit, conn, account)
    except AddressTaken:
        visit.form.fail("email", "There is an account with this address already. Sign in instead.")
        return None
    return account


async def _set_password(visit: Visit, invitation: Invitation, secret: str) -> Page:
    password = _new_password(visit, "")
    if not visit.form.is_valid:
        return _invitation_page(visit, invitation, secret, status=422)
    password_hash = await visit.portal.passwords.hash(password)
    async with visit.writing() as conn:
        account = await accounts.reset_password(conn, secret, password_hash, visit.now)
        await throttle.clear(conn, account.email)
    visit.remember_device(account.email)
    return visit.redirect("/sign-in", done="password_set")


def _new_password(visit: Visit, email: str) -> str:
    password = visit.form["password"]
    objection = objection_to(password, email)
    if objection is not None:
        visit.form.fail("password", objection)
    return password
