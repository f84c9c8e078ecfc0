"""Sign-in, sign-out and the choice of a namespace."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from bucketline_console.api import Api, ApiError
from bucketline_console.page import MAX_NAMESPACES, FormDep, PageDep, cookie_name, redirect, render_plain

router = APIRouter()

MAX_KEY_LENGTH = 512
DAY_SECONDS = 24 * 3600

Next = Annotated[str, Query(max_length=2000)]


@router.get("/sign-in")
async def show_sign_in(next: Next = "/") -> Response:  # noqa: A002 - the usual name of this parameter
    """Show the form."""
    return render_plain("sign_in.html", next=_local(next), error="")


@router.post("/sign-in")
async def sign_in(request: Request, form: FormDep) -> Response:
    """Check the key with the API and keep it in a cookie that scripts cannot read."""
    key, target = form.get("key", ""), _local(form.get("next", "/"))
    try:
        if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
            raise ApiError(401, "")
        await Api(request.app.state.session, key).get("/v1/me")
    except ApiError as error:
        message = "This key is not valid." if error.status == 401 else error.message
        return render_plain("sign_in.html", error.status, next=target, error=message)
    response = RedirectResponse(target, 303)
    is_secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(
        cookie_name(request), quote(key), max_age=DAY_SECONDS, httponly=True, samesite="strict", secure=is_secure
    )
    return response


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Forget the key."""
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
    return response


@router.get("/")
async def choose_namespace(page: PageDep) -> Response:
    """Go to the only namespace, or to the list."""
    names = await _list_namespaces(page)
    return redirect(f"/namespaces/{quote(names[0], safe='')}" if len(names) == 1 else "/namespaces")


@router.get("/namespaces")
async def list_namespaces(page: PageDep) -> Response:
    """List the namespaces that the key may access."""
    return page.render("namespaces.html", names=await _list_namespaces(page))


@router.post("/namespaces")
async def create_namespace(page: PageDep, form: FormDep) -> Response:
    """Create a namespace and go to it."""
    name = form.get("name", "")
    call = page.api.post("/v1/namespaces", {"namespace_name": name})
    return await page.act(call, f"Namespace {name} created.", "/namespaces")


async def _list_namespaces(page: PageDep) -> list[str]:
    rows = (await page.api.post("/v1/namespaces/list", limit=str(MAX_NAMESPACES)))["results"]
    return sorted(str(row["namespace_name"]) for row in rows)


def _local(target: str) -> str:
    """Return the target if it is a path of this console, so that a link cannot lead elsewhere after the sign-in."""
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"
