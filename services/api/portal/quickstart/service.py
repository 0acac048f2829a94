"""Create the commands and code to copy, with the addresses of this instance, and a test token."""

import secrets
from typing import NamedTuple
from urllib.parse import urlencode

from jinja2 import Environment

from services.api.tokens.schemas import TokenRequest
from services.api.tokens.service import token_claims
from shared.infra.ids import Mode, livekit_room
from shared.infra.settings import Settings
from shared.livekit.access_token import TokenSigner
from shared.models.accounts import Account
from shared.models.scope import Scope

TEST_TTL_S = 3600
ROOM = "lobby"
SNIPPETS = ("curl", "node", "python", "react", "usage", "livekit")
# LiveKit's open-source meeting page. It runs in the browser that opens the link, and its server gets no data.
_MEET = "https://meet.livekit.io/custom"


class TestToken(NamedTuple):
    """A token, and the ways to join a room with it."""

    token: str
    identity: str
    url: str
    meet_link: str
    command: str


def mint_test_token(
    settings: Settings, signer: TokenSigner, account: Account, scope: Scope, mode: Mode, now_ms: int
) -> TestToken:
    """Mint a token for the room ``ROOM`` of this project and mode, valid for an hour."""
    identity = f"tester-{secrets.token_hex(3)}"
    request = TokenRequest(room=ROOM, identity=identity, name=account.name)
    claims = token_claims(request, livekit_room(scope.project_id, mode, ROOM))
    token = signer.sign(claims, now_s=now_ms // 1000, ttl_s=TEST_TTL_S)
    url = settings.livekit_url
    return TestToken(
        token,
        identity,
        url,
        f"{_MEET}?{urlencode({'liveKitUrl': url, 'token': token})}",
        f"lk room join --url {url} --token {token} --publish-demo",
    )


def snippets(settings: Settings, templates: Environment, mode: Mode) -> dict[str, str]:
    """Return the snippets by name, with a placeholder for the key."""
    values = {
        "relay_url": settings.relay_api_url,
        "livekit_key": settings.livekit_api_key,
        "room": ROOM,
        "key": f"sk_{mode}_…",
    }
    return {name: templates.get_template(f"snippets/{name}.txt").render(values) for name in SNIPPETS}
