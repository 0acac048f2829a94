"""Administration of the instance: its health, all projects, accounts, set-aside events, the audit log of everything."""

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from services.api.portal.instance_health import health_of
from services.api.portal.visit import Page, Visit
from shared.accounts import service as accounts
from shared.accounts.queries import accounts as account_queries
from shared.accounts.queries import memberships
from shared.audit_log import queries as audit_log
from shared.errors import SetAsideEventNotFound
from shared.events import set_aside
from shared.events.queries import set_aside as set_aside_queries
from shared.infra.json_text import indented
from shared.models.accounts import Account

_PAGE = 50
_BODY_SHOWN = 2_000


class InstanceController(Controller):
    path = "/instance"
    opt = {"instance_admin": True}  # noqa: RUF012  # how Litestar spells it

    @get()
    async def health(self, visit: NamedDependency[Visit]) -> Page:
        return visit.page("instance.html", health=await health_of(visit))

    @get("/projects")
    async def projects(self, visit: NamedDependency[Visit]) -> Page:
        given = visit.request.query_params
        wanted = given.get("q", "").strip()[:200].replace("\0", "")
        after = (
            (given["name"].replace("\0", ""), given["after"].replace("\0", ""))
            if given.get("after") and "name" in given
            else None
        )
        async with visit.reading() as conn:
            found = await memberships.all_projects(conn, wanted, after, _PAGE + 1)
        return visit.page("instance_projects.html", projects=found[:_PAGE], more=len(found) > _PAGE, wanted=wanted)

    @get("/accounts")
    async def accounts(self, visit: NamedDependency[Visit]) -> Page:
        return await _accounts(visit)

    @post("/accounts/invite")
    async def invite(self, visit: NamedDependency[Visit]) -> Page:
        note = visit.form.text("note", "whom it is for", longest=100)
        if not visit.form.is_valid:
            return await _accounts(visit, status=422)
        async with visit.writing() as conn:
            secret = await accounts.invite(conn, visit.actor, "sign_up", visit.now, note=note)
        visit.form_is_done()
        return await _accounts(visit, status=201, link=_link(visit, secret), link_for=note)

    @post("/accounts/withdraw")
    async def withdraw(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.writing() as conn:
            if not await memberships.revoke_invitation(conn, visit.form["invitation"], None, visit.now):
                raise NotFoundException
            await visit.record(conn, "invitation_withdrawn")
        return visit.redirect("/instance/accounts", done="invitation_withdrawn")

    @post("/accounts/{account_id:str}/password")
    async def password_link(self, visit: NamedDependency[Visit], account_id: FromPath[str]) -> Page:
        account = await _account(visit, account_id)
        async with visit.writing() as conn:
            secret = await accounts.invite(
                conn, visit.actor, "password", visit.now, account_id=account_id, note=account.email
            )
        return await _accounts(visit, status=201, link=_link(visit, secret), link_for=account.email)

    @post("/accounts/{account_id:str}/disable")
    async def disable(self, visit: NamedDependency[Visit], account_id: FromPath[str]) -> Page:
        account = await _account(visit, account_id)
        if account_id == visit.account.account_id:
            visit.form.fail("accounts", "You cannot disable the account that you are signed in with.")
            return await _accounts(visit, status=422)
        async with visit.writing(takes_rights=True) as conn:
            # Of two administrators who disable each other at once, one stays.
            if account.is_admin and account.disabled_at is None and await account_queries.count_admins(conn) < 2:
                visit.form.fail("accounts", "Somebody has to administer this Relay.")
            else:
                await accounts.disable(conn, account_id, visit.now)
                await visit.record(conn, "account_disabled", target=account.email)
        if not visit.form.is_valid:
            return await _accounts(visit, status=422)
        return visit.redirect("/instance/accounts", done="account_disabled")

    @post("/accounts/{account_id:str}/enable")
    async def enable(self, visit: NamedDependency[Visit], account_id: FromPath[str]) -> Page:
        account = await _account(visit, account_id)
        async with visit.writing() as conn:
            await account_queries.set_disabled(conn, account_id, None)
            await visit.record(conn, "account_enabled", target=account.email)
        return visit.redirect("/instance/accounts", done="account_enabled")

    @post("/accounts/{account_id:str}/admin")
    async def admin(self, visit: NamedDependency[Visit], account_id: FromPath[str]) -> Page:
        """Gives or takes the administration of the instance, which keeps at least one who can sign in."""
        account = await _account(visit, account_id)
        given = visit.form["admin"] == "yes"
        async with visit.writing(takes_rights=True) as conn:
            if not given and account.disabled_at is None and await account_queries.count_admins(conn) < 2:
                visit.form.fail("accounts", "Somebody has to administer this Relay; give it to another account first.")
            else:
                await accounts.set_admin(conn, account_id, given, visit.now)
                await visit.record(conn, "admin_given" if given else "admin_taken", target=account.email)
        if not visit.form.is_valid:
            return await _accounts(visit, status=422)
        if not given and account_id == visit.account.account_id:
            return visit.redirect("/projects", done="admin_taken")
        return visit.redirect("/instance/accounts", done="admin_given" if given else "admin_taken")

    @get("/set-aside")
    async def set_aside(self, visit: NamedDependency[Visit]) -> Page:
        reason = visit.request.query_params.get("reason", "")[:100].replace("\0", "") or None
        async with visit.reading() as conn:
            counts = await set_aside_queries.count_set_aside(conn)
            events = await set_aside_queries.page_of_set_aside(conn, reason=reason, before_id=visit.before(), limit=21)
        shown = [(event, _readable(event.body)) for event in events[:20]]
        return visit.page("set_aside.html", counts=counts, events=shown, more=len(events) > 20, reason=reason)

    @post("/set-aside/{event_id:int}/replay")
    async def replay(self, visit: NamedDependency[Visit], event_id: FromPath[int]) -> Page:
        async with visit.writing() as conn:
            try:
                await set_aside.replay(conn, [_row_id(event_id)], visit.now_ms)
            except SetAsideEventNotFound:
                raise NotFoundException from None
            await visit.record(conn, "event_replayed", target=str(event_id))
        return visit.redirect("/instance/set-aside", done="event_replayed")

    @post("/set-aside/{event_id:int}/dismiss")
    async def dismiss(self, visit: NamedDependency[Visit], event_id: FromPath[int]) -> Page:
        async with visit.writing() as conn:
            try:
                await set_aside.dismiss(conn, [_row_id(event_id)])
            except SetAsideEventNotFound:
                raise NotFoundException from None
            await visit.record(conn, "event_dismissed", target=str(event_id))
        return visit.redirect("/instance/set-aside", done="event_dismissed")

    @get("/log")
    async def log(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.reading() as conn:
            entries = await audit_log.entries(conn, None, visit.before(), _PAGE + 1)
        return visit.page("instance_log.html", entries=entries[:_PAGE], more=len(entries) > _PAGE)


async def _account(visit: Visit, account_id: str) -> Account:
    async with visit.reading() as conn:
        account = await account_queries.account_by_id(conn, account_id.replace("\0", ""))
    if account is None:
        raise NotFoundException
    return account


async def _accounts(visit: Visit, status: int = 200, link: str | None = None, link_for: str = "") -> Page:
    async with visit.reading() as conn:
        known = await account_queries.list_accounts(conn)
        invitations = await memberships.open_invitations(conn, None, visit.now)
    invitations = [invitation for invitation in invitations if invitation.purpose == "sign_up"]
    return visit.page(
        "instance_accounts.html", status=status, accounts=known, invitations=invitations, link=link, link_for=link_for
    )


def _row_id(given: int) -> int:
    """Raises ``NotFoundException`` for a number that no row can have."""
    if not 0 < given < 1 << 63:
        raise NotFoundException
    return given


def _link(visit: Visit, secret: str) -> str:
    return f"{visit.portal.settings.relay_api_url}/invitations/{secret}"


def _readable(body: bytes) -> str:
    """The start of a body, indented where it is JSON."""
    text, is_cut = indented(body, _BODY_SHOWN)
    return f"{text} …" if is_cut else text
