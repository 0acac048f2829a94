"""The same two endpoints, written with Litestar and livekit-api in the usual way.

There is no authentication. Webhooks are verified and appended to one Redis stream, with one command each.
"""

from datetime import timedelta
from typing import Any

import msgspec
from litestar import Litestar, Request, post
from litestar.exceptions import NotAuthorizedException
from livekit import api
from redis import asyncio as redis_asyncio

from shared.infra.settings import environment

_ENV = environment()
_KEY, _SECRET, _URL = _ENV["LIVEKIT_API_KEY"], _ENV["LIVEKIT_API_SECRET"], _ENV["LIVEKIT_URL"]
_receiver = api.WebhookReceiver(api.TokenVerifier(_KEY, _SECRET))
_redis: Any = redis_asyncio.from_url(_ENV["REDIS_URL"])


class TokenRequest(msgspec.Struct):
    room: str
    identity: str
    ttl: int = 3600


@post("/token", status_code=200)
async def token(data: TokenRequest) -> dict[str, str]:
    grants = api.VideoGrants(
        room_join=True, room=data.room, can_publish=True, can_subscribe=True, can_publish_data=True
    )
    access = api.AccessToken(_KEY, _SECRET).with_identity(data.identity).with_grants(grants)
    return {"token": access.with_ttl(timedelta(seconds=data.ttl)).to_jwt(), "url": _URL, "room": data.room}


@post("/webhook", status_code=200)
async def webhook(request: Request[Any, Any, Any]) -> dict[str, bool]:
    body = await request.body()
    try:
        _receiver.receive(body.decode(), request.headers.get("authorization", ""))
    except Exception as error:
        raise NotAuthorizedException from error
    await _redis.xadd("peer:events", {"b": body})
    return {"received": True}


app = Litestar([token, webhook], openapi_config=None, logging_config=None)
