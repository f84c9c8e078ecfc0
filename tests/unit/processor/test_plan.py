"""Plans: the collections of an object, their order, and the fields that they pass through."""

import asyncio
from typing import Any

import pytest
from tests.unit.processor.factories import NOW, a_collection, an_object, rule

from bucketline.clock import ManualClock
from bucketline.db.collections import CollectionDocument
from bucketline.domain.collection_graph import walk_tiers
from bucketline.errors import DependencyUnavailable
from bucketline.extractors import ExtractorRegistry, OutboundPolicy, PermanentError
from bucketline_processor.plan import ExtractionPlans, select_stages


class Stored:
    """The collections of one bucket."""

    def __init__(self, *collections: CollectionDocument) -> None:
        self.collections = collections
        self.reads = 0
        self.unavailable = False

    async def tiers_of_bucket(self, bucket_id: str) -> list[list[CollectionDocument]]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.unavailable:
            raise DependencyUnavailable("unavailable")
        return await walk_tiers([c for c in self.collections if bucket_id in c["source"]["bucket_ids"]], self._readers)

    async def _readers(self, tier: list[CollectionDocument]) -> list[CollectionDocument]:
        ids = {collection["_id"] for collection in tier}
        return [c for c in self.collections if ids & set(c["source"]["collection_ids"])]


def plans(*collections: CollectionDocument) -> ExtractionPlans:
    return ExtractionPlans(Stored(*collections), ExtractorRegistry(), OutboundPolicy(), clock=ManualClock(NOW))  # type: ignore[arg-type]


async def test_plan_orders_collections_after_their_sources() -> None:
    made = plans(
        a_collection("c", reads=["a", "b"]), a_collection("b", reads=["a"]), a_collection("a"), a_collection("d")
    )
    order = [stage.id for stage in await made.get("bkt_1", since=NOW)]
    assert order.index("a") < order.index("b") < order.index("c")
    assert sorted(order) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("named", ["b", "name of b"])
async def test_select_stages_adds_the_sources_of_the_selected_collections(named: str) -> None:
    made = plans(a_collection("a"), a_collection("b", reads=["a"]), a_collection("c", reads=["b"]), a_collection("d"))
    assert [stage.id for stage in select_stages(await made.get("bkt_1", since=NOW), [named])] == ["a", "b"]


async def test_plan_with_concurrent_readers_is_read_once_and_failures_are_not_cached() -> None:
    stored = Stored(a_collection("a"))
    made = ExtractionPlans(stored, ExtractorRegistry(), OutboundPolicy(), clock=ManualClock(NOW))  # type: ignore[arg-type]
    stored.unavailable = True
    answers = await asyncio.gather(*(made.get("bkt_1", since=NOW) for _ in range(5)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {DependencyUnavailable}
    stored.unavailable = False
    await asyncio.gather(*(made.get("bkt_1", since=NOW) for _ in range(50)))
    assert stored.reads == 2


async def test_plan_older_than_the_unit_is_read_again() -> None:
    stored = Stored(a_collection("a"))
    clock = ManualClock(NOW)
    made = ExtractionPlans(stored, ExtractorRegistry(), OutboundPolicy(), clock=clock)  # type: ignore[arg-type]
    await made.get("bkt_1", since=NOW)
    stored.collections = (*stored.collections, a_collection("new"))
    clock.advance(0.5)
    assert [stage.id for stage in await made.get("bkt_1", since=clock.now())] == ["a", "new"]
    await made.get("bkt_1", since=NOW)
    assert stored.reads == 2


async def test_plan_with_an_unusable_extractor_has_a_problem() -> None:
    made = plans(
        a_collection("a", extractor="unheard_of"), a_collection("b", extractor="text_extractor", parameters={"x": 1})
    )
    missing, wrong = await made.get("bkt_1", since=NOW)
    assert missing.problem is not None
    assert (missing.problem.kind, "not installed" in missing.problem.message) == ("transient", True)
    assert wrong.problem is not None
    assert wrong.problem.kind == "permanent"


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({}, {"sku": "A-17", "vendor": {"name": "Acme", "country": "DE"}}),
        ({"field_passthrough": [rule("sku")]}, {"sku": "A-17"}),
        ({"field_passthrough": [rule("vendor.name")]}, {"name": "Acme"}),
        ({"field_passthrough": [rule("vendor.name", "vendor")]}, {"vendor": "Acme"}),
        ({"field_passthrough": [rule("vendor.name", "by.whom")]}, {"by": {"whom": "Acme"}}),
        ({"field_passthrough": [rule("none")]}, {}),
        ({"field_passthrough": [rule("none", default=7, required=True)]}, {"none": 7}),
        (
            {"field_passthrough": [rule("sku", "vendor.sku")], "include_all_source_fields": True},
            {"sku": "A-17", "vendor": {"name": "Acme", "country": "DE", "sku": "A-17"}},
        ),
        ({"extractor": "text_extractor"}, {}),
        (
            {"extractor": "text_extractor", "include_all_source_fields": True},
            {"sku": "A-17", "vendor": {"name": "Acme", "country": "DE"}},
        ),
    ],
)
async def test_pass_through_returns_the_configured_fields(config: dict[str, Any], fields: dict[str, object]) -> None:
    [stage] = await plans(a_collection("a", **config)).get("bkt_1", since=NOW)
    custom = an_object()["custom"]
    assert stage.pass_through(custom) == fields
    assert custom == an_object()["custom"], "the object's own fields must stay as they are"


async def test_pass_through_without_a_required_field_raises_permanent_error() -> None:
    [stage] = await plans(a_collection("a", field_passthrough=[rule("none", required=True)])).get("bkt_1", since=NOW)
    with pytest.raises(PermanentError, match="'none' is required"):
        stage.pass_through(an_object()["custom"])
