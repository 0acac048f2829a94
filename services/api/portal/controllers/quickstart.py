"""The quickstart page: from a key to the first usage."""

from litestar import Controller, get, post
from litestar.di import NamedDependency

from services.api.portal.quickstart import ROOM, TestToken, mint_test_token, snippets
from services.api.portal.visit import Page, Visit
from shared.errors import ProjectArchived


class QuickstartController(Controller):
    path = "/projects/{project_id:str}/quickstart"

    @get()
    async def show(self, visit: NamedDependency[Visit]) -> Page:
        return _page(visit)

    @post("/token")
    async def mint(self, visit: NamedDependency[Visit]) -> Page:
        if visit.project.archived_at is not None:
            raise ProjectArchived(visit.project.project_id)
        token = mint_test_token(visit)
        async with visit.writing() as conn:
            await visit.record(
                conn, "test_token_minted", target=token.identity, detail=f"room {ROOM}, {visit.mode} mode"
            )
        return _page(visit, token, status=201)


def _page(visit: Visit, token: TestToken | None = None, status: int = 200) -> Page:
    return visit.page(
        "quickstart.html",
        status=status,
        token=token,
        room=ROOM,
        livekit_url=visit.portal.settings.livekit_url,
        snippets=snippets(visit),
    )
