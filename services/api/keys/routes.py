"""Manage the API keys of the key's project and mode: `/v1/keys`."""

from typing import Any, Final

from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody

from services.api.http.access.authentication import Authentication
from services.api.http.idempotency import IDEMPOTENT, IDEMPOTENT_ERRORS, attempt_of
from services.api.http.openapi import described
from services.api.keys.schemas import (
    CreateKey,
    KeyAnswer,
    KeyId,
    KeyPage,
    KeyPageQuery,
    NewKeyAnswer,
    RenameKey,
    RevokedKeys,
    RevokeKeyQuery,
    RotateKey,
)
from services.api.keys.service import ProjectKeys
from shared.infra.clock import Clock
from shared.infra.postgres.pool import Pool
from shared.models.projects import KeyRecord

KeyInPath = FromPath[KeyId]
_SECRET_ONCE_ERRORS: Final = (*IDEMPOTENT_ERRORS, "shown_once")
_NEW_KEY_ERRORS: Final = ("key_inactive", "project_archived")


def provide_keys(
    key: NamedDependency[KeyRecord],
    pool: NamedDependency[Pool],
    authentication: NamedDependency[Authentication],
    clock: NamedDependency[Clock],
) -> ProjectKeys:
    """Return the keys of the key's project and mode."""
    return ProjectKeys(pool, authentication, key, clock)


KEY_ROUTE_DEPENDENCIES: Final = {"keys": Provide(provide_keys, sync_to_thread=False)}


class KeysController(Controller):
    path = "/keys"
    dependencies = KEY_ROUTE_DEPENDENCIES
    tags = ("keys",)

    @get(
        operation_id="listKeys",
        summary="List the keys",
        description=(
            "Newest first, with revoked and expired keys. Only the answer that creates a key holds its secret."
        ),
        opt=described(errors=("invalid_cursor",)),
    )
    async def list_keys(self, keys: NamedDependency[ProjectKeys], params: NamedDependency[KeyPageQuery]) -> KeyPage:
        return await keys.page(params.limit, params.cursor)

    @post(
        operation_id="createKey",
        summary="Create a key",
        description=(
            "The key belongs to the project and mode of the key of the request, whose id is stored with it. The secret"
            " `key` is in this answer only. A request that is repeated with its `Idempotency-Key` creates no second key: the"
            " answer then names the first key, without its secret."
        ),
        opt=described(
            errors=(*_NEW_KEY_ERRORS, *_SECRET_ONCE_ERRORS, "too_many_keys"),
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
        return await keys.create(data, attempt_of(request, key.project_id, key.mode, data))

    @get("/{key_id:str}", operation_id="getKey", summary="Get a key", opt=described(errors=("key_not_found",)))
    async def get_key(self, keys: NamedDependency[ProjectKeys], key_id: KeyInPath) -> KeyAnswer:
        return await keys.get(key_id)

    @patch(
        "/{key_id:str}",
        operation_id="renameKey",
        summary="Rename a key",
        opt=described(errors=("key_not_found",), example={"name": "server, Dublin"}),
    )
    async def rename_key(
        self, keys: NamedDependency[ProjectKeys], key_id: KeyInPath, data: JSONBody[RenameKey]
    ) -> KeyAnswer:
        return await keys.rename(key_id, data)

    @post(
        "/{key_id:str}/rotate",
        operation_id="rotateKey",
        summary="Replace a key",
        description=(
            "Both keys are valid for `graceSeconds`. The new key has the lifetime that the old one was created with."
        ),
        opt=described(
            errors=(*_NEW_KEY_ERRORS, *_SECRET_ONCE_ERRORS, "key_not_found", "key_already_rotated", "too_many_keys"),
            example={"graceSeconds": 3600},
            request_headers=IDEMPOTENT["request_headers"],
        ),
    )
    async def rotate_key(
        self,
        request: Request[Any, Any, Any],
        key: NamedDependency[KeyRecord],
        keys: NamedDependency[ProjectKeys],
        key_id: KeyInPath,
        data: JSONBody[RotateKey],
    ) -> Response[NewKeyAnswer]:
        return await keys.rotate(key_id, data, attempt_of(request, key.project_id, key.mode, data))

    @delete(
        "/{key_id:str}",
        operation_id="revokeKey",
        status_code=200,
        summary="Revoke a key",
        description="Takes effect at once, in every process, and is final. A key can revoke itself.",
        opt=described(errors=("key_not_found",)),
    )
    async def revoke_key(
        self, keys: NamedDependency[ProjectKeys], key_id: KeyInPath, params: NamedDependency[RevokeKeyQuery]
    ) -> RevokedKeys:
        return await keys.revoke(key_id, params.and_made)
