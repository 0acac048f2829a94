"""Provide the named dependencies of the portal's handlers.

| name | type | meaning |
|---|---|---|
| ``page`` | ``PageRequest`` | renders the answer |
| ``form`` | ``Form`` | the fields that were sent |
| ``now`` | ``datetime`` | the time of the request |
| ``account``, ``session`` | ``Account``, ``BrowserSession`` | the signed-in account and its browser session |
| ``actor`` | ``Actor`` | the account as the audit log names it |
| ``project`` | ``ProjectAccess`` | the project in the path, and the account's role in it |
| ``project_scope`` | ``Scope`` | the project and the mode of the page |
| ``usage_clock`` | ``UsageClock`` | the time that usage is read at |
| ``conn`` | ``Connection`` | GET: a read-only snapshot; POST: a transaction that commits when the handler returns |
| ``transactions`` | ``Transactions`` | for handlers that wait for something else between two transactions |
| ``audit`` | ``Audit`` | writes to the audit log in the transaction of ``conn`` |
| ``portal``, ``settings``, ``passwords`` | | parts of the process |

``conn`` is resolved after everything that can fail. Litestar does not close a dependency if a later one raises, so a dependency
that names ``conn`` must not raise: handlers look up rows themselves.
"""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, NamedTuple

from litestar import Request
from litestar.di import NamedDependency, Provide

from services.api.portal.forms import Form
from services.api.portal.page_request import PageRequest
from services.api.portal.portal import Portal
from services.api.portal.transactions import Transactions
from services.api.usage.stream_backlog import Seen
from shared.accounts.service import Actor, actor_of, record
from shared.infra.postgres.pool import Connection
from shared.models.accounts import Account, BrowserSession, ProjectAccess
from shared.models.scope import Scope
from shared.models.usage.ranges import UsageClock


class Audit(NamedTuple):
    """Writes actions of the signed-in account in the project to the audit log."""

    conn: Connection
    actor: Actor
    now: datetime
    project_id: str | None

    async def record(self, action: str, target: str = "", detail: str = "") -> None:
        await record(self.conn, self.actor, action, self.now, project_id=self.project_id, target=target, detail=detail)


def remember_page_request(request: Request[Any, Any, Any], page: PageRequest) -> None:
    """Store the result of admission for the dependencies."""
    request.scope["relay_page_request"] = page  # type: ignore[typeddict-unknown-key]  # an application may add keys to the scope


def provide_page(request: Request[Any, Any, Any]) -> PageRequest:
    page: PageRequest = request.scope["relay_page_request"]  # type: ignore[typeddict-item]  # as above
    return page


def provide_form(page: NamedDependency[PageRequest]) -> Form:
    return page.form


def provide_now(page: NamedDependency[PageRequest]) -> datetime:
    return page.now


def provide_account(page: NamedDependency[PageRequest]) -> Account:
    assert page.account is not None, "a public route has no account"  # noqa: S101  # admission checked it
    return page.account


def provide_actor(page: NamedDependency[PageRequest]) -> Actor:
    return actor_of(provide_account(page))


def provide_session(page: NamedDependency[PageRequest]) -> BrowserSession:
    assert page.session is not None, "a public route has no session"  # noqa: S101  # admission checked it
    return page.session


def provide_project(page: NamedDependency[PageRequest]) -> ProjectAccess:
    assert page.project is not None, "this route has no project id"  # noqa: S101  # admission checked it
    return page.project


def provide_project_scope(page: NamedDependency[PageRequest]) -> Scope:
    return Scope(provide_project(page).project_id, page.mode)


def provide_usage_clock(page: NamedDependency[PageRequest], portal: NamedDependency[Portal]) -> UsageClock:
    return UsageClock(page.now_ms, portal.stale_ms)


def provide_transactions(page: NamedDependency[PageRequest], portal: NamedDependency[Portal]) -> Transactions:
    return Transactions(portal.pool, page)


async def provide_conn(
    request: Request[Any, Any, Any], transactions: NamedDependency[Transactions]
) -> AsyncIterator[Connection]:
    """Yield a snapshot for a GET, otherwise a transaction.

    Litestar commits it before it sends the answer, or rolls it back.
    """
    if request.method in ("GET", "HEAD"):
        async with transactions.reading() as conn:
            yield conn
    else:
        async with transactions.writing(takes_rights=bool(request.route_handler.opt.get("takes_rights"))) as conn:
            yield conn


def provide_audit(page: NamedDependency[PageRequest], conn: NamedDependency[Connection]) -> Audit:
    return Audit(conn, provide_actor(page), page.now, None if page.project is None else page.project.project_id)


async def provide_backlog(page: NamedDependency[PageRequest], portal: NamedDependency[Portal]) -> tuple[int, Seen]:
    """Return the backlog in Redis.

    It must be read before the snapshot begins, or `asOf` would be too late.
    """
    return await portal.backlog.since(page.now_ms)


async def provide_conn_after_backlog(
    transactions: NamedDependency[Transactions],
    backlog: NamedDependency[tuple[int, Seen]],  # only to wait for it
) -> AsyncIterator[Connection]:
    async with transactions.reading() as conn:
        yield conn


# For controllers that show usage: ``conn`` waits for ``backlog``.
USAGE_DEPENDENCIES = {"backlog": Provide(provide_backlog), "conn": Provide(provide_conn_after_backlog)}


def page_dependencies(portal: Portal) -> dict[str, Provide]:
    """Return the dependencies of all pages, by the names that handlers use."""

    def provide_portal() -> Portal:
        return portal

    def given(value: Any) -> Provide:
        return Provide(lambda: value, sync_to_thread=False)

    plain: dict[str, Callable[..., Any]] = {
        "page": provide_page,
        "form": provide_form,
        "now": provide_now,
        "account": provide_account,
        "actor": provide_actor,
        "session": provide_session,
        "project": provide_project,
        "project_scope": provide_project_scope,
        "usage_clock": provide_usage_clock,
        "transactions": provide_transactions,
        "audit": provide_audit,
        "portal": provide_portal,
    }
    return {
        **{name: Provide(function, sync_to_thread=False) for name, function in plain.items()},
        "conn": Provide(provide_conn),
        "settings": given(portal.settings),
        "passwords": given(portal.passwords),
    }
