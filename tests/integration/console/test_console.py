"""The console in Debian's Chromium: every page, an upload, live changes, batches and dead letters."""

import asyncio
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect
from tests import requirements
from tests.brokers import kafka_settings
from tests.conftest import ADMIN_KEY, PASSTHROUGH, Api, Services
from tests.waiting import completed, eventually

from bucketline.cli.upload import BUCKET_SCHEMA, SAMPLES_DIR
from bucketline.devstack.reservations import reserve_ports
from bucketline.devstack.supervisor import Supervisor, console_service
from bucketline.events.topics import OBJECTS
from bucketline.kafka.publisher import KafkaPublisher

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

LIVE_MS = 60_000
"""Far above the refresh interval of five seconds: a loaded machine is not what is tested."""
SIZES = [(1280, 900), (390, 844)]
EXPECTED_MESSAGES = ("[DOM] Password forms", "Failed to load resource: the server responded with a status of 40")
"""What Chromium writes about a form with a password only, and about error pages."""
SAMPLES = ("invoice.pdf", "sales.png", "tasting-notes.txt")


@pytest.fixture(scope="session")
async def console(services: Services) -> AsyncIterator[str]:
    """The URL of the console of the running services."""
    with reserve_ports(1) as reserved:
        api_port = int(services.url.rpartition(":")[2])
        service = console_service({}, api_port=api_port, port=reserved.ports[0])
        async with Supervisor([service], reserved_ports=reserved.ports) as supervisor:
            yield supervisor.url("console")


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        requirements.lacking("Chromium is not installed: apt-get install chromium")
    async with async_playwright() as playwright:
        # Chromium's sandbox needs rights that containers do not have.
        running = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield running
        await running.close()


@asynccontextmanager
async def open_page(
    browser: Browser, console: str, key: str = ADMIN_KEY, *, size: tuple[int, int] = SIZES[0], dark: bool = False
) -> AsyncIterator[Page]:
    """Open a page that is signed in. At the end nothing may have violated the policy or failed in a script."""
    context = await browser.new_context(
        base_url=console,
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        accept_downloads=True,
    )
    context.set_default_timeout(LIVE_MS)
    page = await context.new_page()
    faults: list[str] = []
    page.on(
        "console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    try:
        await page.goto("/sign-in")
        await page.get_by_label("API key").fill(key)
        await page.get_by_role("main").get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/namespaces**")
        yield page
        assert [fault for fault in faults if not fault.startswith(EXPECTED_MESSAGES)] == []
    finally:
        await context.close()


@dataclass(frozen=True)
class Filled:
    """A namespace with the bucket ``notes``, a finished batch of two objects, and a webhook whose receiver is away."""

    namespace: str
    bucket: str
    object_id: str
    batch: str
    webhook: str


@pytest.fixture
async def filled(api: Api) -> AsyncIterator[Filled]:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace, bucket_name="notes")
    await api.collection(namespace, bucket, **PASSTHROUGH)
    path = f"/v1/buckets/{bucket}"
    note = {"property": "note", "type": "text", "data": "Call the supplier on Friday."}
    ids = [(await client.post(f"{path}/objects", {"name": name, "blobs": [note]}))["object_id"] for name in ("a", "b")]
    batch = (await client.post(f"{path}/batches", {"object_ids": ids}))["batch_id"]
    await client.post(f"{path}/batches/{batch}/submit")
    await eventually(lambda: completed(client, f"/v1/batches/{batch}"))
    await eventually(lambda: completed(client, f"{path}/objects/{ids[0]}"))
    webhook = await client.post(
        "/v1/organizations/webhooks",
        {
            "webhook_name": f"w-{secrets.token_hex(4)}",
            "event_types": ["object.created"],
            "channels": [{"channel": "webhook", "configs": {"url": f"https://{secrets.token_hex(4)}.invalid/in"}}],
        },
    )
    yield Filled(namespace, bucket, ids[0], batch, webhook["webhook_id"])
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as session:
        await session.delete(f"{api.url}/v1/organizations/webhooks/{webhook['webhook_id']}")


async def test_newcomer_uploads_files_watches_them_complete_and_replays_a_dead_letter(
    browser: Browser, console: str, services: Services, tmp_path: Path
) -> None:
    namespace = f"new-{secrets.token_hex(4)}"
    async with open_page(browser, console) as page:
        await page.goto("/namespaces")
        await page.get_by_label("New namespace").fill(namespace)
        await page.get_by_role("button", name="Create").click()
        await expect(page.get_by_role("status")).to_have_text(f"Namespace {namespace} created.")
        await page.goto(f"/namespaces/{namespace}/buckets")
        await page.locator("#bucket-name").fill("files")
        await page.get_by_role("button", name="Create bucket").click()
        await page.locator("#collection-name").fill("everything")
        await page.get_by_label("Fields to copy").fill("name")
        await page.get_by_role("button", name="Create collection").click()
        await expect(page.get_by_role("status")).to_have_text("Collection everything created.")

        await page.get_by_role("link", name="Upload").click()
        await page.get_by_label("Drop files here, or choose them").set_input_files([SAMPLES_DIR / n for n in SAMPLES])
        links = page.locator("#sent a")
        await expect(links).to_have_count(len(SAMPLES), timeout=LIVE_MS)
        urls = [str(await link.get_attribute("href")) for link in await links.all()]

        await page.goto(f"/namespaces/{namespace}/objects")
        await page.evaluate("window.isTheSamePage = true")
        await expect(page.locator("#list .badge", has_text="COMPLETED")).to_have_count(len(SAMPLES), timeout=LIVE_MS)
        assert await page.evaluate("window.isTheSamePage"), "the statuses changed without a reload"

        await page.goto(urls[SAMPLES.index("sales.png")])
        await expect(page.locator("#timeline li").first).to_contain_text("Accepted")
        await expect(page.locator("#timeline li").last).to_contain_text("Completed")
        await expect(page.locator("#documents")).to_contain_text("1 in total")

        async def lists_events() -> bool:
            await page.reload()
            return await page.locator("#events").filter(has_text="object.created").count() == 1

        await eventually(lists_events)
        picture = page.get_by_role("img", name="Preview of sales.png")
        await picture.scroll_into_view_if_needed()
        await expect(picture).to_have_js_property("complete", True)
        assert await picture.evaluate("image => image.naturalWidth") > 100
        async with page.expect_download() as started:
            await page.get_by_role("link", name="Download").click()
        saved = tmp_path / "saved.png"
        await (await started.value).save_as(saved)
        assert saved.read_bytes() == (SAMPLES_DIR / "sales.png").read_bytes()
        await page.goto(urls[SAMPLES.index("tasting-notes.txt")])
        await expect(page.locator("#blobs pre")).to_contain_text((SAMPLES_DIR / "tasting-notes.txt").read_text()[:40])

        await handle_a_poisoned_record(page, services, f"/namespaces/{namespace}/dead-letters")


async def handle_a_poisoned_record(page: Page, services: Services, path: str) -> None:
    """Replay a record that no service can read, which brings it back, and discard it."""
    key = f"poison-{secrets.token_hex(6)}"
    settings = kafka_settings(services.stack, fetch_max_wait_ms=5)
    async with KafkaPublisher(settings) as publisher:
        await publisher.publish_raw([(settings.topic_prefix + OBJECTS.name, key.encode(), b"not JSON", [])])
    await page.goto(path)
    cards = page.get_by_role("article").filter(has_text=key)
    await expect(cards.first).to_be_visible(timeout=LIVE_MS)

    async def addresses() -> set[str]:
        await page.goto(path)
        return set(await cards.locator("p.mono").all_text_contents())

    await page.goto(path.removesuffix("/dead-letters"))
    row = page.get_by_role("row").filter(has_text="Dead letters")
    await expect(row.locator("td")).to_have_text(re.compile(r"[1-9]"), timeout=LIVE_MS)
    first = await addresses()
    for address in first:
        await page.get_by_role("article").filter(has_text=address).get_by_role("button", name="Replay").click()
        await expect(page.get_by_role("status")).to_have_text("1 replayed.")

    async def came_back() -> bool:
        found = await addresses()
        return bool(found) and not found & first

    await eventually(came_back, deadline=60)
    page.on("dialog", lambda dialog: dialog.accept())
    while await cards.count():
        await cards.first.get_by_role("button", name="Discard").click()
        await expect(page.get_by_role("status")).to_have_text("1 discarded.")


async def test_cancel_of_a_running_batch_returns_its_objects_to_draft(browser: Browser, console: str, api: Api) -> None:
    async def never_answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/slow.txt"
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    note = {"property": "note", "type": "text", "data": {"url": url}}
    created = await client.post(f"/v1/buckets/{bucket}/objects", {"blobs": [note]})
    batch = await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": [created["object_id"]]})
    async with server, open_page(browser, console) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        await page.goto(f"/namespaces/{namespace}/batches/{batch['batch_id']}")
        await page.get_by_role("button", name="Submit").click()
        await expect(page.get_by_role("status")).to_have_text("The batch is submitted.")
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator("#status")).to_have_text("CANCELED", timeout=LIVE_MS)
        await page.goto(f"/namespaces/{namespace}/buckets/{bucket}/objects/{created['object_id']}")
        await expect(page.locator("#status")).to_have_text("DRAFT", timeout=LIVE_MS)


async def test_failed_batch_shows_its_errors_and_is_retried_and_run_again(
    browser: Browser, console: str, api: Api
) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    note = {"property": "note", "type": "text", "data": {"url": "http://10.255.255.1/refused.txt"}}
    created = await client.post(f"/v1/buckets/{bucket}/objects", {"blobs": [note]})
    batch = await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": [created["object_id"]]})
    await client.post(f"/v1/buckets/{bucket}/batches/{batch['batch_id']}/submit")
    async with open_page(browser, console) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        await page.goto(f"/namespaces/{namespace}/batches/{batch['batch_id']}")
        for button, notice in (
            ("Retry what failed", "The failed objects are retried."),
            ("Run again", "The batch runs again."),
        ):
            await expect(page.locator("#status")).to_have_text("FAILED", timeout=LIVE_MS)
            await page.reload()
            await expect(page.locator("#failed")).to_contain_text(created["object_id"])
            await page.get_by_role("button", name=button).click()
            await expect(page.get_by_role("status")).to_have_text(notice)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_every_page_is_accessible_and_fits_the_screen(
    size: tuple[int, int], dark: bool, browser: Browser, console: str, filled: Filled
) -> None:
    base = f"/namespaces/{filled.namespace}"
    paths = ["", "/objects", f"/buckets/notes/objects/{filled.object_id}", "/batches", f"/batches/{filled.batch}"]
    paths += ["/upload", "/buckets", "/webhooks", f"/webhooks/{filled.webhook}", "/dead-letters"]
    async with open_page(browser, console, size=size, dark=dark) as page:
        for path in ["/namespaces", *(base + path for path in paths), "/sign-in", f"{base}/batches/btch_unknown"]:
            await page.goto(path)
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            found = await Axe().run(page)
            assert found.violations_count == 0, f"{path}: {found.generate_report()}"
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= size[0], f"{path} is {width} pixels wide"


async def test_overview_counts_the_objects_and_what_deduplication_saves(
    browser: Browser, console: str, filled: Filled
) -> None:
    async with open_page(browser, console) as page:
        await page.goto(f"/namespaces/{filled.namespace}")
        await expect(page.locator(".tile").filter(has_text="COMPLETED").locator(".figure")).to_have_text("2")
        await expect(page.locator("#last-hour")).to_contain_text(re.compile(r"2 created\s+2 finished"))
        await expect(page.get_by_role("row").filter(has_text="Saved by deduplication")).to_contain_text("28 B (50 %)")


async def test_webhook_delivery_is_sent_again(browser: Browser, console: str, api: Api, filled: Filled) -> None:
    client = api.client(filled.namespace)
    await client.post(f"/v1/buckets/{filled.bucket}/objects", {"name": "one"})
    path = f"/v1/organizations/webhooks/{filled.webhook}/deliveries"

    async def attempts() -> int:
        rows = (await client.get(path))["results"]
        return int(rows[0]["attempts"]) if rows else 0

    first = await eventually(attempts)
    async with open_page(browser, console) as page:
        await page.goto(f"/namespaces/{filled.namespace}/webhooks/{filled.webhook}")
        await page.get_by_role("button", name="Redeliver").first.click()
        await expect(page.get_by_role("status")).to_have_text("The delivery is due now.")

    async def sent_again() -> bool:
        return await attempts() > first

    await eventually(sent_again, deadline=60)


async def test_restricted_key_sees_only_what_it_may(browser: Browser, console: str, api: Api) -> None:
    namespace = await api.namespace()
    await api.namespace()
    scope = {"resource_type": "namespace", "resource_id": namespace}
    issued = await api.client().post(
        "/v1/organizations/users/reader@example.com/api-keys",
        {"name": f"reader-{secrets.token_hex(4)}", "permissions": ["read"], "scopes": [scope]},
    )
    async with open_page(browser, console, issued["key"]) as page:
        await page.wait_for_url(f"**/namespaces/{namespace}")  # the only one
        links = await page.get_by_role("navigation").get_by_role("link").all_text_contents()
        assert links == ["Overview", "Objects", "Batches", "Buckets", "Webhooks"]
        await expect(page.get_by_role("heading", name="Backlog")).to_have_count(0)
        answer = await page.goto(f"/namespaces/{namespace}/dead-letters")
        assert answer is not None
        assert answer.status == 403


async def test_session_needs_a_valid_key_and_hides_it_from_scripts(browser: Browser, console: str) -> None:
    async with open_page(browser, console) as page:
        assert await page.evaluate("document.cookie") == ""
        (cookie,) = await page.context.cookies()
        assert cookie.get("httpOnly")
        assert cookie.get("sameSite") == "Strict"
        await page.get_by_role("button", name="Sign out").click()
        await page.goto("/namespaces")
        assert "/sign-in?next=/namespaces" in page.url
        await page.get_by_label("API key").fill("sk_wrong")
        await page.get_by_role("main").get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_have_text("This key is not valid.")


@pytest.mark.parametrize("origin", [None, "http://evil.example", "http://127.0.0.1:1"])
async def test_write_from_another_origin_is_refused(origin: str | None, console: str) -> None:
    name = f"forged-{secrets.token_hex(4)}"
    headers = {"Cookie": f"bucketline_{console.rpartition(':')[2]}={ADMIN_KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{console}/namespaces") as answer:
            assert answer.status == 200, "the session itself is valid"
        forged = {"Origin": origin} if origin else {}
        async with session.post(f"{console}/namespaces", data={"name": name}, headers=forged) as answer:
            assert answer.status == 403
        async with session.get(f"{console}/namespaces") as answer:
            assert name not in await answer.text()


async def test_upload_that_the_schema_refuses_shows_why(console: str, api: Api) -> None:
    namespace = await api.namespace()
    bucket = await api.bucket(namespace, bucket_schema={"properties": {"image": BUCKET_SCHEMA["properties"]["image"]}})
    headers = {"Cookie": f"bucketline_{console.rpartition(':')[2]}={ADMIN_KEY}", "Origin": console}
    url = f"{console}/namespaces/{namespace}/upload/{bucket}"
    async with aiohttp.ClientSession(headers=headers) as session:
        for content, expected in ((b"%PDF-1.4", "application/pdf"), (b"", "The file is empty.")):
            async with session.put(url, params={"filename": "a.pdf"}, data=content) as answer:
                assert answer.status == 422
                assert expected in (await answer.json())["error"]


async def test_start_page_of_the_api_leads_to_the_docs(api: Api) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{api.url}/", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (307, "/docs")
