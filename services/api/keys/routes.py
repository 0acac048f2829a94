"""`/v1/keys`: the API keys of the asking key's project and mode."""

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody

from services.api.context import Context
from services.api.http.cursors import Cursor
from services.api.http.idempotency import IDEMPOTENT, IDEMPOTENT_ERRORS, attempt_of
from services.api.http.openapi import described
from services.api.http.query import Query
from services.api.keys.schemas import CreateKey, KeyAnswer, KeyPage, NewKeyAnswer, RenameKey, RevokedKeys, RotateKey
from services.api.keys.service import ProjectKeys
from shared.models.projects import KeyRecord

MAX_PAGE = 100
KeyId = FromPath[
    Annotated[
        str, msgspec.Meta(pattern=r"\A[a-z0-9]{1,64}\Z", description="`keyId` of a key.", examples=["h7q2m9x4k8t6w3na"])
    ]
]


class KeyPageQuery(Query):
    """A page of keys."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE, description="Keys a page.")] = MAX_PAGE
    cursor: Cursor | None = None


class RevokeKeyQuery(Query):
    """Which keys go with a revoked one."""

    and_made: Annotated[
        bool, msgspec.Meta(description="Also revoke every key that it created, and every key that those created.")
    ] = False


_ONCE = (*IDEMPOTENT_ERRORS, "shown_once")
_ADDS = ("key_inactive", "project_archived")


async def project_keys(key: NamedDependency[KeyRecord], context: NamedDependency[Context]) -> ProjectKeys:
    return ProjectKeys(context.pool, context.authentication, key, context.clock)


KEYS = {"keys": Provide(project_keys)}


class KeysController(Controller):
    path = "/keys"
    dependencies = KEYS
    tags = ("keys",)

    @get(operation_id="listKeys", summary="List the keys", opt=described(errors=("invalid_cursor",)))
    async def list_keys(self, keys: NamedDependency[ProjectKeys], params: NamedDependency[KeyPageQuery]) -> KeyPage:
        """Newest first; revoked and expired ones too. No answer but the one that makes a key holds its secret."""
        return await keys.page(params.limit, params.cursor)

    @post(
        operation_id="createKey",
        summary="Make a key",
        opt=described(
            errors=(*_ADDS, *_ONCE, "too_many_keys"),
            example={"name": "server, Frankfurt"},
            request_headers=IDEMPOTENT["request_headers"],
        ),
    )
    async def create_key(
        self,
        request: Request[Any, Any, Any],
        key: NamedDependency[KeyRecord],
        keys: NamedDependency[ProjectKeys],
        data: JSONBody[CreateKey],
    ) -> Response[NewKeyAnswer]:
        """Of the project and mode of the asking key, whose id is kept with it. `key` is shown this once: a request that is
        repeated with its `Idempotency-Key` makes no second key and is told which one was made, not its secret."""
        return await keys.create(data, attempt_of(request, key.project_id, key.mode, data))

    @get("/{key_id:str}", operation_id="getKey", summary="Show a key", opt=described(errors=("key_not_found",)))
    async def get_key(self, keys: NamedDependency[ProjectKeys], key_id: KeyId) -> KeyAnswer:
        return await keys.get(key_id)

    @patch(
        "/{key_id:str}",
        operation_id="renameKey",
        summary="Rename a key",
        opt=described(errors=("key_not_found",), example={"name": "server, Dublin"}),
    )
    async def rename_key(
        self, keys: NamedDependency[ProjectKeys], key_id: KeyId, data: JSONBody[RenameKey]
    ) -> KeyAnswer:
        return await keys.rename(key_id, data)

    @post(
        "/{key_id:str}/rotate",
        operation_id="rotateKey",
        summary="Replace a key",
        opt=described(
            errors=(*_ADDS, *_ONCE, "key_not_found", "key_already_rotated", "too_many_keys"),
            example={"graceSeconds": 3600},
            request_headers=IDEMPOTENT["request_headers"],
        ),
    )
    async def rotate_key(
        self,
        request: Request[Any, Any, Any],
        key: NamedDependency[KeyRecord],
        keys: NamedDependency[ProjectKeys],
        key_id: KeyId,
        data: JSONBody[RotateKey],
    ) -> Response[NewKeyAnswer]:
        """Both keys work for `graceSeconds`; the new one lives as long as the old one was made to."""
        return await keys.rotate(key_id, data, attempt_of(request, key.project_id, key.mode, data))

    @delete(
        "/{key_id:str}",
        operation_id="revokeKey",
        status_code=200,
        summary="Revoke a key",
        opt=described(errors=("key_not_found",)),
    )
    async def revoke_key(
        self, keys: NamedDependency[ProjectKeys], key_id: KeyId, params: NamedDependency[RevokeKeyQuery]
    ) -> RevokedKeys:
        """It stops working at once, in every process, for good. Also for the asking key itself."""
        return await keys.revoke(key_id, params.and_made)
