"""Build the portal's router: pages, admission, dependencies, headers and error pages."""

from typing import Any

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from services.api.portal.account.routes import AccountController
from services.api.portal.admission import BODY_LIMIT, Admission
from services.api.portal.dependencies import page_dependencies
from services.api.portal.error_pages import add_headers, error_page
from services.api.portal.history.routes import HistoryController
from services.api.portal.instance.account_routes import InstanceAccountsController
from services.api.portal.instance.routes import InstanceController
from services.api.portal.keys.routes import KeyController
from services.api.portal.members.routes import MemberController
from services.api.portal.overview.routes import OverviewController
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.portal import Portal
from services.api.portal.projects.routes import ProjectController, ProjectListController
from services.api.portal.quickstart.routes import QuickstartController
from services.api.portal.rooms.routes import RoomController
from services.api.portal.sign_in.routes import SignInController
from services.api.portal.sign_up.routes import InvitationController, SignUpController
from services.api.portal.usage.routes import UsageController

HANDLERS: list[ControllerRouterHandler] = [
    AccountController,
    HistoryController,
    InstanceAccountsController,
    InstanceController,
    InvitationController,
    KeyController,
    MemberController,
    OverviewController,
    ProjectController,
    ProjectListController,
    QuickstartController,
    RoomController,
    SignInController,
    SignUpController,
    UsageController,
]


def portal_router(portal: Portal) -> Router:
    admission = Admission(portal)

    # A function, because Litestar makes deep copies of routers and copies everything but functions.
    async def admit(request: Request[Any, Any, Any]) -> Page | None:
        return await admission(request)

    @get("/static/{version:str}/{name:str}", opt={"public": True}, before_request=_admit_everybody)
    async def static(version: FromPath[str], name: FromPath[str]) -> Response[bytes]:
        return portal.static.answer(version, name)

    @get("/favicon.ico", opt={"public": True}, before_request=_admit_everybody)
    async def favicon() -> Response[bytes]:
        return portal.static.answer("", "favicon.svg")

    @get("/", opt={"public": True})
    async def home(page: NamedDependency[PageRequest]) -> Page:
        return page.redirect("/projects" if page.signed_in else "/sign-in")

    def with_headers(response: Response[Any]) -> Response[Any]:
        return add_headers(response, secure=portal.cookies.secure)

    def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        return with_headers(error_page(portal, request, error))

    return Router(
        "/",
        route_handlers=[home, static, favicon, *HANDLERS],
        before_request=admit,
        after_request=with_headers,
        exception_handlers={Exception: answer_error},
        dependencies=page_dependencies(portal),
        request_max_body_size=BODY_LIMIT,
        include_in_schema=False,
    )


async def _admit_everybody(_request: Request[Any, Any, Any]) -> None:
    """Admit every request, for files that are the same for everybody."""
