"""Who may do what in a project: members, their roles, links to join."""

from typing import get_args

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException, PermissionDeniedException
from litestar.params import FromPath

from services.api.portal.notices import spoken
from services.api.portal.visit import Page, Visit
from shared.accounts import service as accounts
from shared.accounts.queries import memberships
from shared.errors import LastOwner
from shared.models.accounts import ROLES, Member, Role

NOTE_LENGTH = 100


class MemberController(Controller):
    path = "/projects/{project_id:str}/members"

    @get()
    async def show(self, visit: NamedDependency[Visit]) -> Page:
        return await _page(visit)

    @post("/invite")
    async def invite(self, visit: NamedDependency[Visit]) -> Page:
        """Shows the link in the answer itself, the only time that it exists here."""
        role, note = _role(visit), visit.form.text("note", "whom it is for", longest=NOTE_LENGTH)
        if not visit.form.is_valid:
            return await _page(visit, status=422)
        if role == "owner" and not visit.may("owner"):
            raise PermissionDeniedException("only an owner can invite owners")
        async with visit.writing() as conn:
            secret = await accounts.invite(
                conn, visit.actor, "project", visit.now, project_id=visit.project.project_id, role=role, note=note
            )
        visit.form_is_done()
        return await _page(visit, status=201, link=f"{visit.portal.settings.relay_api_url}/invitations/{secret}")

    @post("/withdraw")
    async def withdraw(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.writing() as conn:
            done = await memberships.revoke_invitation(
                conn, visit.form["invitation"], visit.project.project_id, visit.now
            )
            if not done:
                raise NotFoundException
            await visit.record(conn, "invitation_withdrawn")
        return visit.redirect(visit.url("members"), done="invitation_withdrawn")

    @post("/{account_id:str}/role", opt={"role": "owner"})
    async def change_role(self, visit: NamedDependency[Visit], account_id: FromPath[str]) -> Page:
        role = _role(visit)
        if not visit.form.is_valid:
            return await _page(visit, status=422)
        async with visit.writing(takes_rights=True) as conn:
            try:
                email = await accounts.change_role(conn, visit.project.project_id, account_id, role, visit.now)
            except LastOwner as error:
                visit.form.fail("members", spoken(error))
                email = ""
            if email is None:
                raise NotFoundException
            if email:
                await visit.record(conn, "role_changed", target=email, detail=role)
        if not visit.form.is_valid:
            return await _page(visit, status=422)
        return visit.redirect(visit.url("members"), done="role_changed")

    @get("/{account_id:str}/remove")
    async def confirm_remove(self, visit: NamedDependency[Visit], account_id: FromPath[str]) -> Page:
        return visit.page("member_remove.html", member=await _removable(visit, account_id))

    @post("/{account_id:str}/remove", opt={"role": "viewer"})
    async def remove(self, visit: NamedDependency[Visit], account_id: FromPath[str]) -> Page:
        """Owners remove anybody, everybody themselves."""
        member = await _removable(visit, account_id)
        async with visit.writing(takes_rights=True) as conn:
            try:
                await accounts.change_role(conn, visit.project.project_id, account_id, None, visit.now)
            except LastOwner as error:
                visit.form.fail("members", spoken(error))
            else:
                await visit.record(conn, "member_removed", target=member.email)
        if not visit.form.is_valid:
            return await _page(visit, status=422)
        if account_id == visit.account.account_id:
            return visit.redirect("/projects", done="left")
        return visit.redirect(visit.url("members"), done="member_removed")


def _role(visit: Visit) -> Role:
    chosen = visit.form.choice("role", get_args(Role))
    return next(role for role in ROLES if role == chosen)


async def _removable(visit: Visit, account_id: str) -> Member:
    if not visit.may("owner") and account_id != visit.account.account_id:
        raise PermissionDeniedException("only an owner can remove members")
    async with visit.reading() as conn:
        members = await memberships.members(conn, visit.project.project_id)
    member = next((member for member in members if member.account_id == account_id), None)
    if member is None:
        raise NotFoundException
    return member


async def _page(visit: Visit, status: int = 200, link: str | None = None) -> Page:
    async with visit.reading() as conn:
        members = await memberships.members(conn, visit.project.project_id)
        invitations = []
        if visit.may("admin"):
            invitations = await memberships.open_invitations(conn, visit.project.project_id, visit.now)
    return visit.page("members.html", status=status, members=members, invitations=invitations, link=link)
