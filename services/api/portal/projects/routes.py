"""List and create projects, and show their settings and audit logs."""

from datetime import datetime

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.portal.dependencies import Audit
from services.api.portal.forms import Form
from services.api.portal.notices import spoken
from services.api.portal.page_request import Page, PageRequest
from shared.accounts import service as accounts
from shared.accounts.queries import memberships
from shared.accounts.service import Actor
from shared.audit_log import queries as audit_log
from shared.errors import TooManyProjects
from shared.infra.postgres.pool import Connection, in_transaction
from shared.models.accounts import Account, ProjectAccess
from shared.projects import service as projects

NAME_LENGTH = 100
LOG_PAGE = 50
_ORPHANS, _SHOWN = 50, 100


class ProjectListController(Controller):
    path = "/projects"

    @get()
    async def show(
        self, page: NamedDependency[PageRequest], account: NamedDependency[Account], conn: NamedDependency[Connection]
    ) -> Page:
        mine = await memberships.projects_of(conn, account.account_id)
        orphans = await memberships.orphaned_projects(conn, _ORPHANS) if account.is_admin else []
        if not mine and not orphans:
            return page.redirect("/projects/new")
        wanted = page.param("q").strip()
        found = [project for project in mine if wanted.lower() in project.name.lower() or wanted == project.project_id]
        return page.render(
            "projects.html", projects=found[:_SHOWN], total=len(found), mine=len(mine), orphans=orphans, wanted=wanted
        )

    @get("/new")
    async def form(self, page: NamedDependency[PageRequest]) -> Page:
        return page.render("project_new.html")

    @post("/new")
    async def create(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        actor: NamedDependency[Actor],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
    ) -> Page:
        """Create a project and show its keys in the answer. They are shown only this once."""
        name = form.text("name", "a name for the project", longest=NAME_LENGTH)
        if not form.is_valid:
            return page.render("project_new.html")
        try:
            async with in_transaction(conn):  # a savepoint: undoes what was refused
                created = await projects.create_project(conn, name, now, created_by=f"user:{account.account_id}")
                await accounts.own_new_project(conn, account.account_id, created.project_id, now)
        except TooManyProjects as error:
            form.fail("name", spoken(error))
            return page.render("project_new.html")
        await accounts.record(conn, actor, "project_created", now, project_id=created.project_id, target=name)
        return page.render("project_created.html", status=201, created=created)


class ProjectController(Controller):
    path = "/projects/{project_id:str}"

    @get("/settings")
    async def settings(self, page: NamedDependency[PageRequest]) -> Page:
        return page.render("settings.html")

    @post("/name")
    async def rename(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        project: NamedDependency[ProjectAccess],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
    ) -> Page:
        name = form.text("name", "a name for the project", longest=NAME_LENGTH)
        if not form.is_valid:
            return page.render("settings.html")
        await projects.rename_project(conn, project.project_id, name)
        await audit.record("project_renamed", target=name, detail=f"was {project.name}")
        return page.redirect(page.url("settings"), done="project_renamed")

    @get("/archive", opt={"role": "owner"})
    async def confirm_archive(self, page: NamedDependency[PageRequest]) -> Page:
        return page.render("project_archive.html")

    @post("/archive", opt={"role": "owner"})
    async def archive(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        project: NamedDependency[ProjectAccess],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
    ) -> Page:
        if form["name"].strip() != project.name:
            form.fail("name", "This is not the name of the project.")
            return page.render("project_archive.html")
        await projects.archive_project(conn, project.project_id, now)
        await audit.record("project_archived", target=project.name)
        return page.redirect("/projects", done="project_archived")

    @post("/restore", opt={"role": "owner"})
    async def restore(
        self,
        page: NamedDependency[PageRequest],
        project: NamedDependency[ProjectAccess],
        conn: NamedDependency[Connection],
        audit: NamedDependency[Audit],
    ) -> Page:
        await projects.restore_project(conn, project.project_id)
        await audit.record("project_restored", target=project.name)
        return page.redirect(page.url("settings"), done="project_restored")

    @get("/log")
    async def log(
        self,
        page: NamedDependency[PageRequest],
        project: NamedDependency[ProjectAccess],
        conn: NamedDependency[Connection],
    ) -> Page:
        entries = await audit_log.entries(conn, project.project_id, page.before(), LOG_PAGE + 1)
        return page.render("log.html", entries=entries[:LOG_PAGE], more=len(entries) > LOG_PAGE)
