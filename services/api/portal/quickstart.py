"""What a new project's people copy: commands and code filled with their instance, and a test token with the ways to join."""

import secrets
from typing import NamedTuple
from urllib.parse import urlencode

from services.api.portal.visit import Visit
from services.api.tokens.schemas import TokenRequest
from services.api.tokens.service import token_claims
from shared.infra.ids import livekit_room

TEST_TTL_S = 3600
ROOM = "lobby"
SNIPPETS = ("curl", "node", "python", "react", "usage", "livekit")
# LiveKit's own open-source meeting page; it runs in the browser of whoever follows the link, which is all that it gets.
_MEET = "https://meet.livekit.io/custom"


class TestToken(NamedTuple):
    token: str
    identity: str
    url: str
    meet_link: str
    command: str


def mint_test_token(visit: Visit) -> TestToken:
    """A token of an hour for the room ``ROOM`` of this project and mode."""
    settings = visit.portal.settings
    identity = f"tester-{secrets.token_hex(3)}"
    request = TokenRequest(room=ROOM, identity=identity, name=visit.account.name)
    claims = token_claims(request, livekit_room(visit.project.project_id, visit.mode, ROOM))
    token = visit.portal.signer.sign(claims, now_s=visit.now_ms // 1000, ttl_s=TEST_TTL_S)
    url = settings.livekit_url
    return TestToken(
        token,
        identity,
        url,
        f"{_MEET}?{urlencode({'liveKitUrl': url, 'token': token})}",
        f"lk room join --url {url} --token {token} --publish-demo",
    )


def snippets(visit: Visit) -> dict[str, str]:
    """By name, filled with this instance's addresses and a placeholder for the key."""
    settings = visit.portal.settings
    values = {
        "relay_url": settings.relay_api_url,
        "livekit_key": settings.livekit_api_key,
        "room": ROOM,
        "key": f"sk_{visit.mode}_…",
    }
    environment = visit.portal.templates
    return {name: environment.get_template(f"snippets/{name}.txt").render(values) for name in SNIPPETS}
