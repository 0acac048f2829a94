"""Manage the members of a project: their roles, and the links that invite people."""

from datetime import datetime
from typing import get_args

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException, PermissionDeniedException
from litestar.params import FromPath

from services.api.portal.dependencies import Audit
from services.api.portal.forms import Form
from services.api.portal.notices import spoken
from services.api.portal.page_request import Page, PageRequest
from shared.accounts import service as accounts
from shared.accounts.queries import memberships
from shared.accounts.service import Actor
from shared.errors import LastOwner, TooManyInvitations
from shared.infra.postgres.pool import Connection
from shared.infra.settings import Settings
from shared.models.accounts import ROLES, Account, Member, ProjectAccess, Role

NOTE_LENGTH = 100


class MemberController(Controller):
    path = "/projects/{project_id:str}/members"

    @get()
    async def show(
        self,
        page: NamedDependency[PageRequest],
        project: NamedDependency[ProjectAccess],
        conn: NamedDependency[Connection],
    ) -> Page:
        return await _members_page(page, project, conn)

    @post("/invite")
    async def invite(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        actor: NamedDependency[Actor],
        project: NamedDependency[ProjectAccess],
        now: NamedDependency[datetime],
        settings: NamedDependency[Settings],
        conn: NamedDependency[Connection],
    ) -> Page:
        """Create an invitation and show its link in the answer. It is shown only this once."""
        role, note = _role(form), form.text("note", "who it is for", longest=NOTE_LENGTH)
        if not form.is_valid:
            return await _members_page(page, project, conn)
        if role == "owner" and not page.may("owner"):
            raise PermissionDeniedException("only an owner can invite owners")
        try:
            secret = await accounts.invite(
                conn, actor, "project", now, project_id=project.project_id, role=role, note=note
            )
        except TooManyInvitations as error:
            form.fail("note", spoken(error))
            return await _members_page(page, project, conn)
        page.clear_form()
        return await _members_page(page, project, conn, link=f"{settings.relay_api_url}/invitations/{secret}")

    @post("/withdraw")
    async def withdraw(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        project: NamedDependency[ProjectAccess],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
    ) -> Page:
        if not await memberships.revoke_invitation(conn, form["invitation"], project.project_id, now):
            raise NotFoundException
        await audit.record("invitation_withdrawn")
        return page.redirect(page.url("members"), done="invitation_withdrawn")

    @post("/{account_id:str}/role", opt={"role": "owner", "takes_rights": True})
    async def change_role(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        project: NamedDependency[ProjectAccess],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
        account_id: FromPath[str],
    ) -> Page:
        role = _role(form)
        if not form.is_valid:
            return await _members_page(page, project, conn)
        try:
            email = await accounts.change_role(conn, project.project_id, account_id, role, now)
        except LastOwner as error:
            form.fail("members", spoken(error))
            return await _members_page(page, project, conn)
        if email is None:
            raise NotFoundException
        await audit.record("role_changed", target=email, detail=role)
        return page.redirect(page.url("members"), done="role_changed")

    @get("/{account_id:str}/remove")
    async def confirm_remove(
        self,
        page: NamedDependency[PageRequest],
        account: NamedDependency[Account],
        project: NamedDependency[ProjectAccess],
        conn: NamedDependency[Connection],
        account_id: FromPath[str],
    ) -> Page:
        return page.render("member_remove.html", member=await _removable(page, account, project, conn, account_id))

    @post("/{account_id:str}/remove", opt={"role": "viewer", "takes_rights": True})
    async def remove(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        project: NamedDependency[ProjectAccess],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
        account_id: FromPath[str],
    ) -> Page:
        """Remove a member. Owners can remove every member, others only themselves."""
        member = await _removable(page, account, project, conn, account_id)
        try:
            await accounts.change_role(conn, project.project_id, account_id, None, now)
        except LastOwner as error:
            form.fail("members", spoken(error))
            return await _members_page(page, project, conn)
        await audit.record("member_removed", target=member.email)
        if account_id == account.account_id:
            return page.redirect("/projects", done="left")
        return page.redirect(page.url("members"), done="member_removed")


def _role(form: Form) -> Role:
    chosen = form.choice("role", get_args(Role))
    return next(role for role in ROLES if role == chosen)


async def _removable(
    page: PageRequest, account: Account, project: ProjectAccess, conn: Connection, account_id: str
) -> Member:
    if not page.may("owner") and account_id != account.account_id:
        raise PermissionDeniedException("only an owner can remove members")
    members = await memberships.members(conn, project.project_id)
    member = next((member for member in members if member.account_id == account_id), None)
    if member is None:
        raise NotFoundException
    return member


async def _members_page(page: PageRequest, project: ProjectAccess, conn: Connection, link: str | None = None) -> Page:
    members = await memberships.members(conn, project.project_id)
    invitations = []
    if page.may("admin"):
        invitations = await memberships.open_invitations(conn, project.project_id, page.now)
    return page.render(
        "members.html",
        status=None if link is None else 201,
        members=members,
        invitations=invitations,
        link=link,
    )
