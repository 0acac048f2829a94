"""API keys of a project, in the mode that the page is in: create, rename, rotate, revoke."""

from datetime import timedelta
from typing import Final

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from services.api.portal.notices import spoken
from services.api.portal.visit import Page, Visit
from shared.accounts.service import record_key
from shared.errors import InvalidRequest, KeyInactive, KeyNotFound, KeyRotated, ProjectArchived, TooManyKeys
from shared.infra.ids import KeyType
from shared.keys import service as keys
from shared.models.projects import KeyInfo, NewKey

NAME_LENGTH = 100
GRACES: Final[dict[str, tuple[timedelta, str]]] = {
    "1d": (timedelta(days=1), "24 hours"),
    "7d": (timedelta(days=7), "7 days"),
    "1h": (timedelta(hours=1), "1 hour"),
    "0": (timedelta(0), "not at all: the old key stops at once"),
}
LIFETIMES: Final[dict[str, tuple[timedelta | None, str]]] = {
    "never": (None, "Never"),
    "7d": (timedelta(days=7), "In 7 days"),
    "30d": (timedelta(days=30), "In 30 days"),
    "90d": (timedelta(days=90), "In 90 days"),
    "365d": (timedelta(days=365), "In a year"),
}
_TYPES: Final[tuple[KeyType, KeyType]] = ("secret", "publishable")
_REFUSED = (InvalidRequest, KeyInactive, KeyRotated, ProjectArchived, TooManyKeys)


class KeyController(Controller):
    path = "/projects/{project_id:str}/keys"

    @get()
    async def show(self, visit: NamedDependency[Visit]) -> Page:
        return await _page(visit)

    @post()
    async def create(self, visit: NamedDependency[Visit]) -> Page:
        """Shows the key in the answer itself, the only time that it exists here."""
        name = visit.form.text("name", "a name, to tell keys apart", longest=NAME_LENGTH)
        key_type = next(known for known in _TYPES if known == visit.form.choice("type", _TYPES))
        lifetime, _ = LIFETIMES[visit.form.choice("lifetime", tuple(LIFETIMES))]
        if not visit.form.is_valid:
            return await _page(visit, status=422)
        try:
            async with visit.writing() as conn:
                created = await keys.create_key(
                    conn,
                    visit.project.project_id,
                    visit.mode,
                    key_type,
                    name,
                    visit.now,
                    expires_at=None if lifetime is None else visit.now + lifetime,
                    created_by=visit.creator,
                )
                await record_key(conn, visit.actor, "key_created", created, visit.now)
        except _REFUSED as error:
            visit.form.fail("name", spoken(error))
            return await _page(visit, status=422)
        visit.form_is_done()
        return await _page(visit, status=201, created=created)

    @get("/{key_id:str}/rotate", opt={"role": "admin"})
    async def confirm_rotate(self, visit: NamedDependency[Visit], key_id: FromPath[str]) -> Page:
        return visit.page("key_rotate.html", key=await _key(visit, key_id), graces=GRACES)

    @post("/{key_id:str}/rotate")
    async def rotate(self, visit: NamedDependency[Visit], key_id: FromPath[str]) -> Page:
        key = await _key(visit, key_id)
        grace, _ = GRACES[visit.form.choice("grace", tuple(GRACES))]
        if not visit.form.is_valid:
            return visit.page("key_rotate.html", status=422, key=key, graces=GRACES)
        try:
            async with visit.writing() as conn:
                created = await keys.rotate_key(
                    conn,
                    key_id,
                    visit.now,
                    grace=grace,
                    project_id=visit.project.project_id,
                    mode=visit.mode,
                    created_by=visit.creator,
                )
                await record_key(conn, visit.actor, "key_rotated", key, visit.now)
        except _REFUSED as error:
            visit.form.fail("grace", spoken(error))
            return visit.page("key_rotate.html", status=422, key=key, graces=GRACES)
        visit.form_is_done()
        return await _page(visit, status=201, created=created)

    @get("/{key_id:str}/revoke", opt={"role": "admin"})
    async def confirm_revoke(self, visit: NamedDependency[Visit], key_id: FromPath[str]) -> Page:
        return visit.page("key_revoke.html", key=await _key(visit, key_id))

    @post("/{key_id:str}/revoke")
    async def revoke(self, visit: NamedDependency[Visit], key_id: FromPath[str]) -> Page:
        key = await _key(visit, key_id)
        project_id = visit.project.project_id
        async with visit.writing() as conn:
            if visit.form["made"] == "yes":
                revoked = await keys.revoke_key_and_made(conn, key_id, visit.now, project_id=project_id)
            else:
                revoked = [await keys.revoke_key(conn, key_id, visit.now, project_id=project_id)]
            for one in revoked:
                await record_key(conn, visit.actor, "key_revoked", one, visit.now)
        return visit.redirect(visit.url("keys"), done="key_revoked" if key.revoked_at is None else None)


async def _key(visit: Visit, key_id: str) -> KeyInfo:
    async with visit.reading() as conn:
        try:
            return await keys.find_key(conn, key_id, project_id=visit.project.project_id, mode=visit.mode)
        except KeyNotFound:
            raise NotFoundException from None


async def _page(visit: Visit, status: int = 200, created: NewKey | None = None) -> Page:
    async with visit.reading() as conn:
        known = await keys.list_keys(conn, visit.project.project_id, visit.mode)
    active = [key for key in reversed(known) if key.state(visit.now) == "active"]
    over = [key for key in reversed(known) if key.state(visit.now) != "active"]
    return visit.page("keys.html", status=status, active=active, over=over, created=created, lifetimes=LIFETIMES)
