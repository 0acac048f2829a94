"""Signing in and out."""

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.http.access.unknown_key_limit import network_of
from services.api.portal import throttle
from services.api.portal.gate import SESSION_IDLE, safe_path
from services.api.portal.throttle import TooManyAttempts
from services.api.portal.visit import Page, Visit
from shared.accounts.queries import accounts as queries
from shared.accounts.service import actor_of, record, secret_digest
from shared.infra.postgres.pool import Connection, borrowed
from shared.models.accounts import Account, BrowserSession

# How often a password is checked again because it was changed meanwhile.
_ROUNDS = 3
_WRONG = "The address or the password is wrong."


class SignInController(Controller):
    @get("/sign-in", opt={"public": True})
    async def form(self, visit: NamedDependency[Visit]) -> Page:
        wanted = safe_path(visit.request.query_params.get("next", ""))
        if visit.signed_in:
            return visit.redirect(wanted)
        async with visit.reading() as conn:
            if not await queries.any_account(conn):
                return visit.redirect("/sign-up")
        return _page(visit, wanted)

    @post("/sign-in", opt={"public": True})
    async def sign_in(self, visit: NamedDependency[Visit]) -> Page:
        wanted, email, password = safe_path(visit.form["next"]), visit.form.email("email"), visit.form["password"]
        if not password:
            visit.form.fail("password", "Enter your password.")
        if not visit.form.is_valid:
            return _page(visit, wanted, status=422)
        try:
            async with borrowed(visit.portal.pool) as conn:
                client = await known_client(visit, conn, email)
                subjects = subjects_of(visit, email, client)
                await throttle.count(conn, subjects, visit.now)
                found = await queries.credentials(conn, email)
        except TooManyAttempts as error:
            visit.form.fail("password", str(error))
            return _page(visit, wanted, status=429)
        unknown = None if client is not None else network_of(address_of(visit))
        for _ in range(_ROUNDS):
            # No connection is held while a password is checked: token requests use the same pool.
            right = await visit.portal.passwords.matches(found and found.password_hash, password, unknown)
            if found is None or not right:
                break
            renewed = None
            if visit.portal.passwords.is_outdated(found.password_hash):
                renewed = await visit.portal.passwords.hash(password, unknown)
            async with visit.writing() as conn:
                checked, found = found, await queries.lock_credentials(conn, found.account.account_id)
                if found is not None and found.account.disabled_at is not None:
                    visit.form.fail("email", "This account is disabled. Ask an administrator of this Relay.")
                    return _page(visit, wanted, status=422)
                if found is not None and found.password_hash == checked.password_hash:
                    await throttle.forgive(conn, subjects)
                    await queries.delete_past_attempts(conn, visit.now)
                    if renewed is not None:
                        await queries.set_password_hash(conn, found.account.account_id, renewed)
                    await start_session(visit, conn, found.account)
                    return visit.redirect(wanted)
            # The password was changed while it was checked: check again.
        visit.form.fail("password", _WRONG)
        return _page(visit, wanted, status=422)

    @post("/sign-out", opt={"public": True})
    async def sign_out(self, visit: NamedDependency[Visit]) -> Page:
        if visit.signed_in:
            async with visit.writing() as conn:
                await queries.delete_session(conn, secret_digest(visit.browser))
        visit.take_browser(visit.portal.cookies.new_browser())
        return visit.redirect("/sign-in")


def _page(visit: Visit, wanted: str, status: int = 200) -> Page:
    return visit.page("sign_in.html", status=status, wanted=wanted)


def address_of(visit: Visit) -> str:
    """Where the request comes from; uvicorn has already taken it from a trusted proxy's header."""
    client = visit.request.client
    return client.host if client is not None else ""


async def known_client(visit: Visit, conn: Connection, email: str) -> str | None:
    """What the client is known by if it has signed in to the account before: its device cookie, or an address from which
    somebody is signed in to it. None if it is unknown."""
    cookies = visit.portal.cookies
    device = visit.request.cookies.get(cookies.device_name)
    if cookies.device_is_known(device, throttle.normalized(email)):
        return device
    network = network_of(address_of(visit))
    addresses = await queries.addresses_of_sessions(conn, email, visit.now)
    return network if network in map(network_of, addresses) else None


def subjects_of(visit: Visit, email: str, client: str | None) -> dict[bytes, int]:
    """What an attempt to sign in counts for."""
    if client is not None:
        return throttle.subjects_of_known(email, client)
    return throttle.subjects_of(email, address_of(visit))


async def start_session(visit: Visit, conn: Connection, account: Account) -> None:
    """Signs this browser in, under bits that nobody could have planted in it before. What it was signed in as ends."""
    await queries.delete_session(conn, secret_digest(visit.browser))
    visit.take_browser(visit.portal.cookies.new_browser())
    session = BrowserSession(
        digest=secret_digest(visit.browser),
        created_at=visit.now,
        seen_at=visit.now,
        expires_at=visit.now + SESSION_IDLE,
        address=address_of(visit),
        user_agent=visit.request.headers.get("user-agent", "")[:300],
    )
    visit.remember_device(account.email)
    await queries.delete_expired_sessions(conn, visit.now)
    await queries.insert_session(conn, account.account_id, session)
    await record(conn, actor_of(account), "signed_in", visit.now, target=account.email, detail=session.address)
