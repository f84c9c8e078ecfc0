"""Every list and every lookup is bounded by an index: no query plan scans a collection."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from tests.database import explain
from tests.integration.ingest_api.conftest import Replica, World
from tests.integration.ingest_api.test_isolation import attempts, furnished, of_namespace

from bucketline.db.mongo import Collection

pytestmark = pytest.mark.stack

RecordedQuery = tuple[str, Mapping[str, object], Sequence[tuple[str, int]] | None, str | None]


@contextmanager
def record_queries() -> Iterator[list[RecordedQuery]]:
    """Record the queries that are sent to the database within the context."""
    queries: list[RecordedQuery] = []
    original: dict[str, Any] = {}

    def keep(name: str) -> Any:
        method = original[name] = getattr(Collection, name)

        def wrapper(self: Collection[Any], where: Any, *args: Any, **options: Any) -> Any:
            queries.append((self._name, where, options.get("sort"), options.get("hint")))
            return method(self, where, *args, **options)

        return wrapper

    def keep_pipeline(name: str, pipeline: Any) -> None:
        sort = pipeline[1].get("$sort") if len(pipeline) > 1 else None
        if "$match" in pipeline[0]:
            queries.append((name, pipeline[0]["$match"], list(sort.items()) if sort else None, None))
        for stage in pipeline:
            if "$unionWith" in stage:
                keep_pipeline(stage["$unionWith"]["coll"], stage["$unionWith"]["pipeline"])

    def keep_aggregate(self: Collection[Any], pipeline: Any, **options: Any) -> Any:
        keep_pipeline(self._name, pipeline)
        return original["aggregate"](self, pipeline, **options)

    names = ("find", "find_one", "count", "update_one", "update_many", "find_and_update", "delete_one", "delete_many")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(Collection, name, keep(name))
        original["aggregate"] = Collection.aggregate
        patch.setattr(Collection, "aggregate", keep_aggregate)
        yield queries


def stages(plan: Mapping[str, Any]) -> Iterator[str]:
    """Names of the plan's stages."""
    yield str(plan["stage"])
    inner = plan.get("inputStages") or ([plan["inputStage"]] if "inputStage" in plan else [])
    for stage in inner:
        yield from stages(stage)


LISTS: tuple[dict[str, object], ...] = (
    {},
    {"search": "a"},
    {"filters": {"created_at": "2026-01-01"}},
    {"sort": {"field": "created_at"}},
)


async def test_lists_and_lookups_never_scan_a_collection(world: World, replica: Replica) -> None:
    with record_queries() as queries:
        made = await furnished(replica, "home", "sk_root")
        key = await world.key()
        bucket, collection = made["bucket"][0], made["collection"][0]
        for body in LISTS:
            for path in ("buckets", "collections", f"collections/{collection}/documents"):
                await replica.make(f"/v1/{path}/list", body, namespace="home")
            await replica.make("/v1/namespaces/list", body)
            await replica.make("/v1/tasks/list", body)
        page = await replica.make("/v1/tasks/list", {"page_size": 1, "include_total": True})
        await replica.make("/v1/tasks/list", {"cursor": page["pagination"]["next_cursor"]}, key=key)
        for task_id in made["tasks"]:
            await replica.call("GET", f"/v1/tasks/{task_id}", key=key)
        keys = "/v1/organizations/users/ada@example.org/api-keys"
        await replica.make(keys, {"name": "k"})
        await replica.make(f"{keys}/k/rotate", None)
        await replica.call("GET", keys)
        await replica.call("GET", f"/v1/buckets/{bucket}", namespace="home")
        await replica.deps.runner.poll()
        for method, path, content in (*attempts(made), *of_namespace(made)):
            await replica.call(method, path, content, namespace="home")
        await replica.settle()
        world.clock.advance(60)
        await replica.deps.runner.poll()
        await replica.settle()
    assert len({name for name, *_ in queries}) > 8
    scanned = []
    for name, where, sort, hint in queries:
        rows = world.database.collection(name)
        plan = await explain(rows, where, sort=sort) if hint is None else {"stage": "IXSCAN"}
        if "COLLSCAN" in stages(plan):
            scanned.append((name, where))
    assert scanned == []


async def test_default_orders_are_read_from_an_index(world: World, replica: Replica) -> None:
    with record_queries() as queries:
        made = await furnished(replica, "home", "sk_root")
        queries.clear()
        for path in ("buckets", "collections", f"collections/{made['collection'][0]}/documents"):
            first = await replica.make(f"/v1/{path}/list", {"limit": 1}, namespace="home")
            if cursor := first["pagination"]["next_cursor"]:
                await replica.make(f"/v1/{path}/list", {"limit": 1, "cursor": cursor}, namespace="home")
        await replica.make("/v1/namespaces/list", {})
        page = await replica.make("/v1/tasks/list", {"limit": 1})
        await replica.make("/v1/tasks/list", {"limit": 1, "cursor": page["pagination"]["next_cursor"]})
    sorting = []
    for name, where, sort, _ in queries:
        if sort is not None:
            plan = await explain(world.database.collection(name), where, sort=sort)
            sorting += [(name, where)] if "SORT" in stages(plan) else []
    assert sorting == []
