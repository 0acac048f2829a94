"""Create, rotate and revoke the API keys of a project in the mode of the page."""

from datetime import datetime, timedelta
from typing import Final

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from services.api.portal.forms import Form
from services.api.portal.notices import spoken
from services.api.portal.page_request import Page, PageRequest
from shared.accounts.service import Actor, record_key
from shared.errors import InvalidRequest, KeyInactive, KeyNotFound, KeyRotated, ProjectArchived, TooManyKeys
from shared.infra.ids import KeyType
from shared.infra.postgres.pool import Connection, in_transaction
from shared.keys import service as keys
from shared.models.accounts import Account
from shared.models.projects import KeyInfo, NewKey
from shared.models.scope import Scope

NAME_LENGTH = 100
GRACES: Final[dict[str, tuple[timedelta, str]]] = {
    "1d": (timedelta(days=1), "24 hours"),
    "7d": (timedelta(days=7), "7 days"),
    "1h": (timedelta(hours=1), "1 hour"),
    "0": (timedelta(0), "no time (stops at once)"),
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
    async def show(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        conn: NamedDependency[Connection],
    ) -> Page:
        return await _keys_page(page, project_scope, conn)

    @post()
    async def create(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        actor: NamedDependency[Actor],
        project_scope: NamedDependency[Scope],
        conn: NamedDependency[Connection],
    ) -> Page:
        """Create a key and show it in the answer. It is shown only this once."""
        name = form.text("name", "a name for the key", longest=NAME_LENGTH)
        key_type = next(known for known in _TYPES if known == form.choice("type", _TYPES))
        lifetime, _ = LIFETIMES[form.choice("lifetime", tuple(LIFETIMES))]
        if not form.is_valid:
            return await _keys_page(page, project_scope, conn)
        try:
            async with in_transaction(conn):  # a savepoint: undoes what was refused
                created = await keys.create_key(
                    conn,
                    project_scope.project_id,
                    page.mode,
                    key_type,
                    name,
                    page.now,
                    expires_at=None if lifetime is None else page.now + lifetime,
                    created_by=f"user:{account.account_id}",
                )
        except _REFUSED as error:
            form.fail("name", spoken(error))
            return await _keys_page(page, project_scope, conn)
        await record_key(conn, actor, "key_created", created, page.now)
        page.clear_form()
        return await _keys_page(page, project_scope, conn, created)

    @get("/{key_id:str}/rotate", opt={"role": "admin"})
    async def confirm_rotate(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        conn: NamedDependency[Connection],
        key_id: FromPath[str],
    ) -> Page:
        key = await _key(page, project_scope, conn, key_id)
        return page.render("key_rotate.html", key=key, graces=GRACES)

    @post("/{key_id:str}/rotate")
    async def rotate(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        account: NamedDependency[Account],
        actor: NamedDependency[Actor],
        project_scope: NamedDependency[Scope],
        conn: NamedDependency[Connection],
        key_id: FromPath[str],
    ) -> Page:
        key = await _key(page, project_scope, conn, key_id)
        grace, _ = GRACES[form.choice("grace", tuple(GRACES))]
        if not form.is_valid:
            return page.render("key_rotate.html", key=key, graces=GRACES)
        try:
            async with in_transaction(conn):  # a savepoint: undoes what was refused
                created = await keys.rotate_key(
                    conn,
                    key.key_id,
                    page.now,
                    grace=grace,
                    project_id=project_scope.project_id,
                    mode=page.mode,
                    created_by=f"user:{account.account_id}",
                )
        except _REFUSED as error:
            form.fail("grace", spoken(error))
            return page.render("key_rotate.html", key=key, graces=GRACES)
        await record_key(conn, actor, "key_rotated", key, page.now)
        page.clear_form()
        return await _keys_page(page, project_scope, conn, created)

    @get("/{key_id:str}/revoke", opt={"role": "admin"})
    async def confirm_revoke(
        self,
        page: NamedDependency[PageRequest],
        project_scope: NamedDependency[Scope],
        conn: NamedDependency[Connection],
        key_id: FromPath[str],
    ) -> Page:
        key = await _key(page, project_scope, conn, key_id)
        return page.render("key_revoke.html", key=key)

    @post("/{key_id:str}/revoke")
    async def revoke(
        self,
        page: NamedDependency[PageRequest],
        form: NamedDependency[Form],
        actor: NamedDependency[Actor],
        project_scope: NamedDependency[Scope],
        now: NamedDependency[datetime],
        conn: NamedDependency[Connection],
        key_id: FromPath[str],
    ) -> Page:
        key = await _key(page, project_scope, conn, key_id)
        project_id = project_scope.project_id
        if form["made"] == "yes":
            revoked = await keys.revoke_key_and_made(conn, key.key_id, now, project_id=project_id)
        else:
            revoked = [await keys.revoke_key(conn, key.key_id, now, project_id=project_id)]
        for one in revoked:
            await record_key(conn, actor, "key_revoked", one, now)
        return page.redirect(page.url("keys"), done="key_revoked" if key.revoked_at is None else None)


async def _key(page: PageRequest, project_scope: Scope, conn: Connection, key_id: str) -> KeyInfo:
    """Return the key in the path. Raises ``NotFoundException``."""
    try:
        return await keys.find_key(conn, key_id, project_id=project_scope.project_id, mode=page.mode)
    except KeyNotFound:
        raise NotFoundException from None


async def _keys_page(page: PageRequest, project_scope: Scope, conn: Connection, created: NewKey | None = None) -> Page:
    known = await keys.list_keys(conn, project_scope.project_id, page.mode)
    active = [key for key in reversed(known) if key.state(page.now) == "active"]
    inactive = [key for key in reversed(known) if key.state(page.now) != "active"]
    return page.render(
        "keys.html",
        status=None if created is None else 201,
        active=active,
        inactive=inactive,
        created=created,
        lifetimes=LIFETIMES,
    )
