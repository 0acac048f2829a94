"""Show the quickstart page, which leads from a key to the first usage."""

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.portal.dependencies import Audit
from services.api.portal.page_request import Page, PageRequest
from services.api.portal.portal import Portal
from services.api.portal.quickstart.service import ROOM, TestToken, mint_test_token, snippets
from shared.errors import ProjectArchived
from shared.models.accounts import Account, ProjectAccess
from shared.models.scope import Scope


class QuickstartController(Controller):
    path = "/projects/{project_id:str}/quickstart"

    @get()
    async def show(self, page: NamedDependency[PageRequest], portal: NamedDependency[Portal]) -> Page:
        return _quickstart_page(page, portal)

    @post("/token")
    async def mint(
        self,
        page: NamedDependency[PageRequest],
        portal: NamedDependency[Portal],
        account: NamedDependency[Account],
        project: NamedDependency[ProjectAccess],
        project_scope: NamedDependency[Scope],
        audit: NamedDependency[Audit],
    ) -> Page:
        if project.archived_at is not None:
            raise ProjectArchived(project.project_id)
        token = mint_test_token(portal.settings, portal.signer, account, project_scope, page.mode, page.now_ms)
        await audit.record("test_token_minted", target=token.identity, detail=f"room {ROOM}, {page.mode} mode")
        return _quickstart_page(page, portal, token)


def _quickstart_page(page: PageRequest, portal: Portal, token: TestToken | None = None) -> Page:
    return page.render(
        "quickstart.html",
        status=200 if token is None else 201,
        token=token,
        room=ROOM,
        livekit_url=portal.settings.livekit_url,
        snippets=snippets(portal.settings, portal.templates, page.mode),
    )
