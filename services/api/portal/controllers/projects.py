"""Projects: the list, making one, its settings and its audit log."""

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.portal.visit import Page, Visit
from shared.accounts import service as accounts
from shared.accounts.queries import memberships
from shared.audit_log import queries as audit_log
from shared.projects import service as projects

NAME_LENGTH = 100
LOG_PAGE = 50
_ORPHANS, _SHOWN = 50, 100


class ProjectListController(Controller):
    path = "/projects"

    @get()
    async def show(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.reading() as conn:
            mine = await memberships.projects_of(conn, visit.account.account_id)
            orphans = await memberships.orphaned_projects(conn, _ORPHANS) if visit.account.is_admin else []
        if not mine and not orphans:
            return visit.redirect("/projects/new")
        wanted = visit.request.query_params.get("q", "").strip()
        found = [project for project in mine if wanted.lower() in project.name.lower() or wanted == project.project_id]
        return visit.page(
            "projects.html", projects=found[:_SHOWN], total=len(found), mine=len(mine), orphans=orphans, wanted=wanted
        )

    @get("/new")
    async def form(self, visit: NamedDependency[Visit]) -> Page:
        return visit.page("project_new.html")

    @post("/new")
    async def create(self, visit: NamedDependency[Visit]) -> Page:
        """Shows the keys in the answer itself, the only time that they exist here."""
        name = visit.form.text("name", "a name for the project", longest=NAME_LENGTH)
        if not visit.form.is_valid:
            return visit.page("project_new.html", status=422)
        async with visit.writing() as conn:
            created = await projects.create_project(conn, name, visit.now, created_by=visit.creator)
            await memberships.insert_membership(conn, created.project_id, visit.account.account_id, "owner", visit.now)
            await accounts.record(
                conn, visit.actor, "project_created", visit.now, project_id=created.project_id, target=name
            )
        return visit.page("project_created.html", status=201, created=created)


class ProjectController(Controller):
    path = "/projects/{project_id:str}"

    @get("/settings")
    async def settings(self, visit: NamedDependency[Visit]) -> Page:
        return visit.page("settings.html")

    @post("/name")
    async def rename(self, visit: NamedDependency[Visit]) -> Page:
        name = visit.form.text("name", "a name for the project", longest=NAME_LENGTH)
        if not visit.form.is_valid:
            return visit.page("settings.html", status=422)
        async with visit.writing() as conn:
            await projects.rename_project(conn, visit.project.project_id, name)
            await visit.record(conn, "project_renamed", target=name, detail=f"was {visit.project.name}")
        return visit.redirect(visit.url("settings"), done="project_renamed")

    @get("/archive", opt={"role": "owner"})
    async def confirm_archive(self, visit: NamedDependency[Visit]) -> Page:
        return visit.page("project_archive.html")

    @post("/archive", opt={"role": "owner"})
    async def archive(self, visit: NamedDependency[Visit]) -> Page:
        if visit.form["name"].strip() != visit.project.name:
            visit.form.fail("name", "This is not the project's name.")
            return visit.page("project_archive.html", status=422)
        async with visit.writing() as conn:
            await projects.archive_project(conn, visit.project.project_id, visit.now)
            await visit.record(conn, "project_archived", target=visit.project.name)
        return visit.redirect("/projects", done="project_archived")

    @post("/restore", opt={"role": "owner"})
    async def restore(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.writing() as conn:
            await projects.restore_project(conn, visit.project.project_id)
            await visit.record(conn, "project_restored", target=visit.project.name)
        return visit.redirect(visit.url("settings"), done="project_restored")

    @get("/log")
    async def log(self, visit: NamedDependency[Visit]) -> Page:
        async with visit.reading() as conn:
            entries = await audit_log.entries(conn, visit.project.project_id, visit.before(), LOG_PAGE + 1)
        return visit.page("log.html", entries=entries[:LOG_PAGE], more=len(entries) > LOG_PAGE)
