"""`/v1/keys`: the API keys of the asking key's project and mode."""

from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, delete, get, patch, post
from litestar.datastructures import CacheControlHeader
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter

from services.api.context import Context
from services.api.keys import ProjectKeys
from shared.models.keys import CreateKey, KeyAnswer, KeyPage, NewKeyAnswer, RenameKey, RevokedKeys, RotateKey

MAX_PAGE = 100
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="at most this many")]
Cursor = Annotated[str | None, QueryParameter(max_length=1024, description="`nextCursor` of the page before")]
AndMade = Annotated[
    bool, QueryParameter(name="andMade", description="also every key that was made with it, and with those, and so on")
]
KeyId = FromPath[Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9]{1,64}\Z", examples=["k3v9x2m7q4w8t6na"])]]


async def project_keys(request: Request[Any, Any, Any], context: NamedDependency[Context]) -> ProjectKeys:
    return ProjectKeys(context.pool, await context.gate.admit(request.scope), context.clock)


class KeysController(Controller):
    path = "/v1/keys"
    dependencies = MappingProxyType({"keys": Provide(project_keys)})
    # Some answers hold a secret, the others what changes at any moment.
    cache_control = CacheControlHeader(no_store=True)
    tags = ("Keys",)

    @get(summary="List the keys")
    async def list_keys(
        self, keys: NamedDependency[ProjectKeys], limit: Limit = MAX_PAGE, cursor: Cursor = None
    ) -> KeyPage:
        """Newest first; revoked and expired ones too. No answer but the one that makes a key holds its secret."""
        return await keys.page(limit, cursor)

    @post(summary="Make a key")
    async def create_key(self, keys: NamedDependency[ProjectKeys], data: JSONBody[CreateKey]) -> NewKeyAnswer:
        """Of the project and mode of the asking key, whose id is kept with it. `key` is shown this once."""
        return await keys.create(data)

    @get("/{key_id:str}", summary="A key")
    async def get_key(self, keys: NamedDependency[ProjectKeys], key_id: KeyId) -> KeyAnswer:
        return await keys.get(key_id)

    @patch("/{key_id:str}", summary="Rename a key")
    async def rename_key(
        self, keys: NamedDependency[ProjectKeys], key_id: KeyId, data: JSONBody[RenameKey]
    ) -> KeyAnswer:
        return await keys.rename(key_id, data)

    @post("/{key_id:str}/rotate", summary="Replace a key")
    async def rotate_key(
        self, keys: NamedDependency[ProjectKeys], key_id: KeyId, data: JSONBody[RotateKey]
    ) -> NewKeyAnswer:
        """Both keys work for `graceSeconds`; the new one lives as long as the old one was made to."""
        return await keys.rotate(key_id, data)

    @delete("/{key_id:str}", status_code=200, summary="Revoke a key")
    async def revoke_key(
        self, keys: NamedDependency[ProjectKeys], key_id: KeyId, and_made: AndMade = False
    ) -> RevokedKeys:
        """It stops working at once, in every process, for good. Also for the asking key itself."""
        return await keys.revoke(key_id, and_made)
