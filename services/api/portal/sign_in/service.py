"""Identify clients that sign in, and start their sessions."""

from datetime import datetime

from services.api.http.access.unknown_key_limit import network_of
from services.api.portal.admission import SESSION_IDLE
from services.api.portal.page_request import PageRequest
from services.api.portal.passwords import attempts
from shared.accounts.queries import accounts as queries
from shared.accounts.service import actor_of, record, secret_digest
from shared.infra.postgres.pool import Connection
from shared.models.accounts import Account, BrowserSession


async def known_client(page: PageRequest, conn: Connection, email: str) -> str | None:
    """Return the identification of a client that has signed in to the account before, or None.

    This is its device cookie, or an address from which somebody is signed in to the account now.
    """
    device = page.known_device(email)
    if device is not None:
        return device
    network = network_of(page.address)
    addresses = await queries.addresses_of_sessions(conn, email, page.now)
    return network if network in map(network_of, addresses) else None


def subjects_of(page: PageRequest, email: str, client: str | None) -> dict[bytes, int]:
    """Return the subjects that an attempt to sign in counts for."""
    if client is not None:
        return attempts.subjects_of_known(email, client)
    return attempts.subjects_of(email, page.address)


async def start_session(page: PageRequest, conn: Connection, account: Account, now: datetime) -> None:
    """Sign this browser in with a new cookie, which no attacker can have planted. End its old session."""
    await queries.delete_session(conn, secret_digest(page.browser))
    session = BrowserSession(
        digest=secret_digest(page.new_browser()),
        created_at=now,
        seen_at=now,
        expires_at=now + SESSION_IDLE,
        address=page.address,
        user_agent=page.request.headers.get("user-agent", "")[:300],
    )
    page.remember_device(account.email)
    await queries.delete_expired_sessions(conn, now)
    await queries.insert_session(conn, account.account_id, session)
    await record(conn, actor_of(account), "signed_in", now, target=account.email, detail=session.address)
