"""Keys through the generated client."""

import secrets

import pytest
from mixpeek import models
from mixpeek.api.account_api import AccountApi
from mixpeek.api.buckets_api import BucketsApi
from mixpeek.api.organization_api_keys_api import OrganizationAPIKeysApi
from mixpeek.exceptions import ConflictException, ForbiddenException, NotFoundException, UnauthorizedException
from tests.conftest import Api
from tests.contract.sdk.conftest import Sdk, call, parse

pytestmark = pytest.mark.stack


def someone() -> str:
    return f"{secrets.token_hex(4)}@example.org"


async def test_a_key_is_made_listed_rotated_and_revoked(api: Api, sdk: Sdk) -> None:
    keys, user = sdk.generated(OrganizationAPIKeysApi), someone()
    namespace = await api.namespace()
    wanted = parse(
        models.APIKeyCreateRequest,
        {
            "name": "scanner",
            "permissions": ["read", "write"],
            "scopes": [{"resource_type": "namespace", "resource_id": namespace}],
        },
    )
    made = await call(keys.create_key_organizations_users_email, user, wanted)
    assert made.key.startswith("sk_")
    assert made.permissions == [models.Permission.READ, models.Permission.WRITE]
    assert (made.user_id, made.name, made.status) == (user, "scanner", models.KeyStatus.ACTIVE)
    with pytest.raises(ConflictException):
        await call(keys.create_key_organizations_users_email, user, wanted)
    listed = await call(keys.list_keys_organizations_users_email, user)
    assert [row["name"] for row in listed["results"]] == ["scanner"]  # type: ignore[attr-defined]
    assert made.key not in str(listed)

    me = await call(sdk.generated(AccountApi, key=made.key).whoami_me)
    assert (me.user_email, me.key.name, sorted(me.key.permissions or [])) == (user, "scanner", ["READ", "WRITE"])
    buckets = sdk.generated(BucketsApi, namespace, key=made.key)
    assert (await call(buckets.list_buckets_get)).results == []
    with pytest.raises(ForbiddenException):
        await call(buckets.delete_bucket, "any")
    with pytest.raises(NotFoundException):
        await call(sdk.generated(BucketsApi, await api.namespace(), key=made.key).list_buckets_get)

    changed = await call(
        keys.update_key_organizations_users_email_name,
        user,
        "scanner",
        models.APIKeyUpdateRequest(description="hall 2", permissions=[models.Permission.READ]),
    )
    assert (changed.description, changed.permissions) == ("hall 2", [models.Permission.READ])
    rotated = await call(keys.rotate_key_organizations_users_email_name, user, "scanner")
    assert rotated.key != made.key
    for key in (made.key, rotated.key):
        assert (await call(sdk.generated(AccountApi, key=key).whoami_me)).key.name == "scanner"
    revoked = await call(keys.delete_key_organizations_users_email_name, user, "scanner")
    assert revoked.success is True
    for key in (made.key, rotated.key):
        with pytest.raises(UnauthorizedException):
            await call(sdk.generated(AccountApi, key=key).whoami_me)
    listed = await call(keys.list_keys_organizations_users_email, user, include_revoked=True)
    assert [row["status"] for row in listed["results"]] == ["revoked"]  # type: ignore[attr-defined]


async def test_the_first_key_may_do_everything(sdk: Sdk) -> None:
    me = await call(sdk.generated(AccountApi).whoami_me)
    assert me.organization_id == "org_local"
    assert sorted(me.key.permissions or []) == ["ADMIN", "DELETE", "READ", "WRITE"]
    assert me.principal_scoped is False


async def test_only_an_administrator_manages_keys(sdk: Sdk) -> None:
    keys, user = sdk.generated(OrganizationAPIKeysApi), someone()
    plain = await call(keys.create_key_organizations_users_email, user, models.APIKeyCreateRequest(name="plain"))
    own = sdk.generated(OrganizationAPIKeysApi, key=plain.key)
    for refused in (
        lambda: own.list_keys_organizations_users_email(user),
        lambda: own.create_key_organizations_users_email(user, models.APIKeyCreateRequest(name="more")),
        lambda: own.rotate_key_organizations_users_email_name(user, "plain"),
        lambda: own.delete_key_organizations_users_email_name(user, "plain"),
    ):
        with pytest.raises(ForbiddenException):
            await call(refused)
    for gone in (keys.delete_key_organizations_users_email_name, keys.rotate_key_organizations_users_email_name):
        with pytest.raises(NotFoundException):
            await call(gone, user, "other")
