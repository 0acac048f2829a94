"""Create accounts and set passwords.

Holds no connection while a password is hashed, because token requests use the same pool.
"""

from datetime import datetime

from services.api.http.access.unknown_key_limit import network_of
from services.api.portal.forms import Form
from services.api.portal.page_request import PageRequest
from services.api.portal.passwords import attempts
from services.api.portal.passwords.attempts import TooManyAttempts
from services.api.portal.passwords.hashing import Passwords
from services.api.portal.passwords.rules import objection_to
from services.api.portal.sign_in.service import start_session
from services.api.portal.transactions import Transactions
from shared.accounts import service as accounts
from shared.errors import AddressTaken
from shared.models.accounts import SignUp


async def create_account(
    page: PageRequest,
    form: Form,
    now: datetime,
    rule: SignUp,
    transactions: Transactions,
    passwords: Passwords,
    *,
    invitation: str | None,
) -> bool:
    """Create an account and sign the browser in; False if the form says what is wrong.

    ``invitation`` is the secret of a link. Raises ``SignUpClosed`` and ``InvitationUnusable``.
    """
    name = form.text("name", "your name", longest=100)
    email, password = form.email("email"), _new_password(form, form["email"])
    if not form.is_valid:
        return False
    try:
        async with transactions.writing() as conn:
            await attempts.count(conn, attempts.subjects_of_sign_up(page.address), now)
    except TooManyAttempts as error:
        form.fail("password", str(error))
        return False
    password_hash = await passwords.hash(password, network_of(page.address))
    try:
        async with transactions.writing() as conn:
            account = await accounts.sign_up(conn, email, name, password_hash, now, rule=rule, invitation=invitation)
            await start_session(page, conn, account, now)
    except AddressTaken:
        form.fail("email", "An account with this address exists already. Sign in instead.")
        return False
    return True


async def set_password(
    page: PageRequest, form: Form, now: datetime, transactions: Transactions, passwords: Passwords, secret: str
) -> bool:
    """Set a password by a link; False if the form says what is wrong. Raises ``InvitationUnusable``."""
    password = _new_password(form, "")
    if not form.is_valid:
        return False
    password_hash = await passwords.hash(password)
    async with transactions.writing() as conn:
        account = await accounts.reset_password(conn, secret, password_hash, now)
        await attempts.clear(conn, account.email)
    page.remember_device(account.email)
    return True


def _new_password(form: Form, email: str) -> str:
    password = form["password"]
    objection = objection_to(password, email)
    if objection is not None:
        form.fail("password", objection)
    return password
