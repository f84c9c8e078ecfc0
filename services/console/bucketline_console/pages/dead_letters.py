"""Dead letters: records that a service could not process."""

from collections import Counter

from fastapi import APIRouter
from starlette.responses import Response

from bucketline_console.api import ApiError, Json
from bucketline_console.page import FormDep, PageDep, redirect

router = APIRouter(prefix="/namespaces/{namespace}")

LIMIT = 100
CHUNK = 20
"""Records per request, so that each takes a few seconds only."""
PAST = {"replay": "replayed", "discard": "discarded"}


@router.get("/dead-letters")
async def show_dead_letters(page: PageDep) -> Response:
    """Show the dead letters that were neither replayed nor discarded."""
    found = await page.api.get("/v1/admin/dead-letters", limit=str(LIMIT))
    kinds = Counter((row["topic"], _kind(row)) for row in found["results"])
    return page.render(
        "dead_letters.html", rows=found["results"], has_more=found["has_more"], kinds=sorted(kinds.items())
    )


@router.post("/dead-letters")
async def handle_dead_letters(page: PageDep, form: FormDep) -> Response:
    """Replay or discard one record, or all of a kind that the page shows."""
    action, back = form.get("action", ""), f"{page.base}/dead-letters"
    if action not in PAST:
        raise ApiError(400, "There is no such action.")
    if address := form.get("address"):
        addresses = [address]
    else:
        rows = (await page.api.get("/v1/admin/dead-letters", limit=str(LIMIT)))["results"]
        kind = form.get("topic"), form.get("kind")
        addresses = [row["address"] for row in rows if (row["topic"], _kind(row)) == kind]
    handled, incomplete = 0, 0
    try:
        for start in range(0, len(addresses), CHUNK):
            body = {"addresses": addresses[start : start + CHUNK]}
            result = await page.api.post(f"/v1/admin/dead-letters/{action}", body)
            handled += result["handled"]
            incomplete += len(result["incomplete"])
    except ApiError as error:
        if error.status == 401:
            raise
        return redirect(back, f"{handled} {PAST[action]}, then: {error.message}", kind="error")
    rest = f" {incomplete} are incomplete and cannot be replayed." if incomplete else ""
    return redirect(back, f"{handled} {PAST[action]}.{rest}")


def _kind(row: Json) -> str:
    return str(row["error"]).partition(":")[0]
