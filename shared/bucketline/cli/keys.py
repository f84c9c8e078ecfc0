"""``bucketline keys``: manage API keys without the API, for the first key and when no key is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from bucketline.cli.terminal import parse_future_time, run_quietly, wide_console

if TYPE_CHECKING:
    from datetime import datetime

    from bucketline.admin.api_keys import ApiKeyService, NewApiKey
    from bucketline.db.api_keys import ApiKeyDocument

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

CREATED_BY = "command line"

T = TypeVar("T")
User = Annotated[str, typer.Option(help="The e-mail address of the key's owner.")]
Name = Annotated[str, typer.Argument(help="The name of the key.")]


@app.callback()
def keys() -> None:
    """List, create, rotate and revoke API keys.

    Example: [cyan]bucketline keys create crawler --expires 90d[/]
    """


@app.command()
def create(
    name: Name,
    user: User = "operator@localhost",
    permission: Annotated[
        list[str] | None,
        typer.Option(help="READ, WRITE, DELETE or ADMIN; may be repeated. [default: all except ADMIN]"),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="A namespace that the key may use, by id or name; may be repeated. [default: all]"),
    ] = None,
    expires: Annotated[str | None, typer.Option(help="Time until the key expires: 24h, 90d. [default: never]")] = None,
    rate_limit: Annotated[int | None, typer.Option(help="Requests per rate limit window.", min=1)] = None,
    description: Annotated[str, typer.Option(help="What the key is used for.")] = "",
) -> None:
    """Create a key and print it. It cannot be shown again.

    Example: [cyan]bucketline keys create crawler --permission WRITE --namespace shop --expires 90d[/]
    """
    from bucketline.admin.api_keys import DEFAULT_PERMISSIONS, ApiKeySpec
    from bucketline.clock import SystemClock
    from bucketline.db.api_keys import as_permissions

    try:
        permissions = as_permissions(permission) if permission else DEFAULT_PERMISSIONS
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--permission") from error
    spec = ApiKeySpec(
        name=name,
        permissions=permissions,
        namespaces=namespace or (),
        description=description,
        expires_at=parse_future_time(expires, SystemClock().now()) if expires else None,
        rate_limit=rate_limit,
    )
    _print_key(_run(lambda service, organization: service.create(organization, user, spec, created_by=CREATED_BY)))


@app.command("list")
def list_(
    revoked: Annotated[bool, typer.Option("--all", help="Include revoked keys.")] = False,
) -> None:
    """List the keys, without their secrets.

    Example: [cyan]bucketline keys list --all[/]
    """
    from bucketline.admin.api_keys import visible_prefix
    from bucketline.clock import SystemClock, wire_time

    rows = _run(lambda service, organization: service.of_organization(organization))
    table = Table("Name", "User", "Key", "Permissions", "Namespaces", "Created", "Last used", "State")
    now = SystemClock().now()
    for key in rows:
        state = _describe_state(key, now)
        if state == "revoked" and not revoked:
            continue
        table.add_row(
            escape(key["name"]),
            escape(key["user_email"]),
            f"{visible_prefix(key['_id'])}…",
            " ".join(key["permissions"]),
            " ".join(key["namespaces"]) or "all",
            wire_time(key["created_at"]),
            wire_time(used) if (used := key.get("last_used_at")) else "never",
            state,
        )
    wide_console().print(table)


@app.command()
def rotate(name: Name, user: User = "operator@localhost") -> None:
    """Give a key a new secret and print it. The old secret stays valid for the grace period.

    Example: [cyan]bucketline keys rotate crawler[/]
    """
    _print_key(_run(lambda service, organization: service.rotate(organization, user, name)))


@app.command()
def revoke(
    name: Name,
    user: User = "operator@localhost",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Revoke a key, which takes effect within BUCKETLINE_API_KEY_CACHE_SECONDS (30). Its name can be used again.

    Example: [cyan]bucketline keys revoke crawler --yes[/]
    """
    if not yes:
        typer.confirm(f"Clients that use the key {name!r} will get 401. Revoke it?", abort=True)
    _run(lambda service, organization: service.revoke(organization, user, name))
    wide_console().print(f"{escape(name)} is revoked")


def _print_key(issued: NewApiKey) -> None:
    # Only the key goes to standard output, so that it can be piped into a secret store.
    typer.echo(f"key {issued.key['name']!r}, which cannot be shown again:", err=True)
    typer.echo(issued.clear)


def _run(work: Callable[[ApiKeyService, str], Awaitable[T]]) -> T:
    async def run() -> T:
        from bucketline.admin.api_keys import ApiKeyService, ApiKeySettings
        from bucketline.clock import SystemClock
        from bucketline.db.api_keys import ApiKeys
        from bucketline.db.mongo import Database
        from bucketline.db.namespaces import Namespaces
        from bucketline.settings import MongoSettings

        settings = ApiKeySettings()
        database = Database(MongoSettings())
        try:
            service = ApiKeyService(ApiKeys(database), Namespaces(database), settings, clock=SystemClock())
            return await work(service, settings.organization_id)
        finally:
            database.close()

    return run_quietly(run())


def _describe_state(key: ApiKeyDocument, now: datetime) -> str:
    from bucketline.clock import wire_time

    if key["revoked_at"] is not None:
        return "revoked"
    expires = key.get("expires_at")
    if expires is not None and expires <= now:
        return "expired"
    return f"valid until {wire_time(expires)}" if expires else "valid"
