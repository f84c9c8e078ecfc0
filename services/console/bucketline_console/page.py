"""What every page shares: the session of the browser, the API client, templates, forms and notices."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, unquote

import jinja2
from fastapi import Depends, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from bucketline_console.api import Api, ApiError, Json
from bucketline_console.formats import FILTERS

MAX_FORM_BYTES = 64 * 1024
MAX_NAMESPACES = 200
NOTICE = "bucketline_notice"

templates = jinja2.Environment(
    loader=jinja2.PackageLoader("bucketline_console"),
    autoescape=True,
    auto_reload=False,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters.update(FILTERS)


class SignInRequired(Exception):
    """The browser has no valid API key."""


@dataclass(frozen=True)
class Page:
    """A request of a signed-in browser. ``me`` is the answer of ``/v1/me``."""

    request: Request
    api: Api
    me: Json
    namespace: str | None = None

    @property
    def base(self) -> str:
        """The path of the namespace's pages."""
        return f"/namespaces/{quote(self.namespace or '', safe='')}"

    def can(self, permission: str) -> bool:
        """Return whether the key has the permission; ADMIN includes all others."""
        granted = {name.upper() for name in self.me["key"]["permissions"]}
        return bool({permission, "ADMIN"} & granted)

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page of HTML, with the notice of the action before it."""
        kind, _, notice = unquote(self.request.cookies.get(NOTICE, "")).partition(":")
        content = templates.get_template(template).render(
            page=self, path=self.request.url.path, notice=notice, notice_kind=kind, **values
        )
        response = HTMLResponse(content, status)
        if notice:
            response.delete_cookie(NOTICE, httponly=True, samesite="strict")
        return response

    async def act(self, action: Awaitable[object], done: str, back: str) -> RedirectResponse:
        """Await an action and go back to a page, which says that it is done or why it was refused."""
        try:
            await action
        except ApiError as error:
            if error.status == 401:
                raise
            return redirect(back, error.message, kind="error")
        return redirect(back, done)


def cookie_name(request: Request) -> str:
    """Return the name of the session cookie. Cookies do not know ports, and several consoles may share a host."""
    return f"bucketline_{request.url.port or request.url.scheme}"


def get_key(request: Request) -> str:
    """Return the API key of the browser."""
    key = unquote(request.cookies.get(cookie_name(request), ""))
    if not key:
        raise SignInRequired
    return key


async def get_page(request: Request, namespace: str | None = None) -> Page:
    """Return the request of a signed-in browser (dependency)."""
    api = Api(request.app.state.session, get_key(request), namespace)
    return Page(request, api, await api.get("/v1/me"), namespace)


PageDep = Annotated[Page, Depends(get_page)]


async def read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of an URL-encoded form; a field that is sent several times is joined with spaces."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise ApiError(413, "The form is too large.")
    fields: dict[str, str] = {}
    for name, value in parse_qsl(body.decode(errors="replace"), keep_blank_values=True):
        fields[name] = f"{fields[name]} {value.strip()}" if name in fields else value.strip()
    return fields


FormDep = Annotated[Mapping[str, str], Depends(read_form)]


def redirect(path: str, notice: str = "", kind: str = "done") -> RedirectResponse:
    """Return a redirect after a form was sent. The next page shows the notice."""
    response = RedirectResponse(path, 303)
    if notice:
        value = quote(f"{kind}:{notice[:500]}")
        response.set_cookie(NOTICE, value, max_age=30, httponly=True, samesite="strict")
    return response


def render_plain(template: str, status: int = 200, **values: Any) -> Response:
    """Return a page that needs no API key."""
    content = templates.get_template(template).render(page=None, notice="", notice_kind="", **values)
    return HTMLResponse(content, status)


async def list_buckets(api: Api) -> list[Json]:
    """Return the buckets of the namespace, at most 200."""
    buckets: list[Json] = (await api.post("/v1/buckets/list", limit=str(MAX_NAMESPACES)))["results"]
    return sorted(buckets, key=lambda bucket: str(bucket["bucket_name"]))


async def gather_or_none(*calls: Awaitable[Json]) -> list[Json | None]:
    """Await several calls at once. The result of one that the API refuses is None, except for an invalid key."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    answers: list[Json | None] = []
    for result in results:
        if isinstance(result, BaseException) and (not isinstance(result, ApiError) or result.status == 401):
            raise result
        answers.append(None if isinstance(result, ApiError) else result)
    return answers
