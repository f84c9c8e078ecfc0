"""``bucketline keys``: API keys from the command line, for the first key and for the day when no key is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from bucketline.cli.output import running, wide_console
from bucketline.cli.params import later

if TYPE_CHECKING:
    from datetime import datetime

    from bucketline.api_keys.service import ApiKeyService, NewApiKey
    from bucketline.db.api_keys import ApiKeyDocument

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

CREATOR = "command line"

T = TypeVar("T")
User = Annotated[str, typer.Option(help="Whose key it is, by e-mail address.")]
Name = Annotated[str, typer.Argument(help="The key's name.")]


@app.callback()
def keys() -> None:
    """API keys: create, list, rotate, revoke.

    Example: [cyan]bucketline keys create crawler --expires 90d[/]
    """


@app.command()
def create(
    name: Name,
    user: User = "operator@localhost",
    permission: Annotated[
        list[str] | None, typer.Option(help="READ, WRITE, DELETE or ADMIN; may be repeated. [default: all but ADMIN]")
    ] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Only this namespace, by id or name; may be repeated. [default: every one]")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="For how long it is good: 24h, 90d. [default: for ever]")] = None,
    rate_limit: Annotated[int | None, typer.Option(help="At most so many requests a window.", min=1)] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Make a key and print it, this once.

    Example: [cyan]bucketline keys create crawler --permission WRITE --namespace shop --expires 90d[/]
    """
    from bucketline.api_keys.service import DEFAULT_PERMISSIONS, ApiKeySpec
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
        expires_at=later(expires, SystemClock().now()) if expires else None,
        rate_limit=rate_limit,
    )
    _issued(_with(lambda ring, organization: ring.create(organization, user, spec, created_by=CREATOR)))


@app.command("list")
def list_(
    revoked: Annotated[bool, typer.Option("--all", help="Show revoked ones, too.")] = False,
) -> None:
    """Show the keys, without their secrets.

    Example: [cyan]bucketline keys list --all[/]
    """
    from bucketline.api_keys.format import visible_prefix
    from bucketline.clock import SystemClock, wire_time

    rows = _with(lambda ring, organization: ring.of_organization(organization))
    table = Table("name", "user", "key", "permissions", "namespaces", "made", "last used", "state")
    now = SystemClock().now()
    for key in rows:
        state = _state(key, now)
        if state == "revoked" and not revoked:
            continue
        table.add_row(
            escape(key["name"]),
            escape(key["user_email"]),
            f"{visible_prefix(key['_id'])}…",
            " ".join(key["permissions"]),
            " ".join(key["namespaces"]) or "every",
            wire_time(key["created_at"]),
            wire_time(used) if (used := key.get("last_used_at")) else "never",
            state,
        )
    wide_console().print(table)


@app.command()
def rotate(name: Name, user: User = "operator@localhost") -> None:
    """Give a key a new secret and print it, this once. The old one works on for the grace period.

    Example: [cyan]bucketline keys rotate crawler[/]
    """
    _issued(_with(lambda ring, organization: ring.rotate(organization, user, name)))


@app.command()
def revoke(
    name: Name,
    user: User = "operator@localhost",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """End a key for good, everywhere within BUCKETLINE_API_KEY_CACHE_SECONDS (30). Its name is free afterwards.

    Example: [cyan]bucketline keys revoke crawler --yes[/]
    """
    if not yes:
        typer.confirm(f"Whoever uses the key {name!r} is locked out. Revoke it?", abort=True)
    _with(lambda ring, organization: ring.revoke(organization, user, name))
    wide_console().print(f"{escape(name)} is revoked")


def _issued(issued: NewApiKey) -> None:
    # The clear key alone goes to standard output, so that it can be piped into a secret store.
    typer.echo(f"key {issued.key['name']!r}; it is shown this once:", err=True)
    typer.echo(issued.clear)


def _with(work: Callable[[ApiKeyService, str], Awaitable[T]]) -> T:
    async def run() -> T:
        from bucketline.api_keys.service import ApiKeyService
        from bucketline.api_keys.settings import ApiKeySettings
        from bucketline.clock import SystemClock
        from bucketline.db.api_keys import ApiKeys
        from bucketline.db.mongo import Database
        from bucketline.db.namespaces import Namespaces
        from bucketline.settings import MongoSettings

        settings = ApiKeySettings()
        database = Database(MongoSettings())
        try:
            ring = ApiKeyService(ApiKeys(database), Namespaces(database), settings, clock=SystemClock())
            return await work(ring, settings.organization_id)
        finally:
            database.close()

    return running(run())


def _state(key: ApiKeyDocument, now: datetime) -> str:
    from bucketline.clock import wire_time

    if key["revoked_at"] is not None:
        return "revoked"
    expires = key.get("expires_at")
    if expires is not None and expires <= now:
        return "expired"
    return f"good until {wire_time(expires)}" if expires else "good"
