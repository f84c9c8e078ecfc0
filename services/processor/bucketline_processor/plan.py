"""Plans which collections an object goes through, and in which order."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from cachetools import TTLCache

from bucketline.clock import Clock
from bucketline.db.collections import CollectionDocument, Collections, includes_all, target_of
from bucketline.domain.collection_graph import ids_with_sources, topological_order
from bucketline.domain.dotted_path import get_path, set_path
from bucketline.errors import ValidationFailed
from bucketline.extractors import (
    BlobView,
    ExtractionContext,
    ExtractionError,
    Extractor,
    ExtractorRegistry,
    ObjectView,
    OutboundPolicy,
    PermanentError,
    TransientError,
    UnknownExtractor,
    validate_parameters,
)

CACHE_SECONDS = 2.0

_MISSING = object()


@dataclass(frozen=True)
class PipelineStage:
    """One collection of a plan. ``problem`` is set instead of ``extractor`` when it cannot be run here."""

    collection: CollectionDocument
    extractor: Extractor | None
    problem: ExtractionError | None
    context: ExtractionContext

    @property
    def id(self) -> str:
        """Return the id of the collection."""
        return self.collection["_id"]

    @property
    def extractor_id(self) -> str:
        """Return the name and version of the extractor, whether it is installed or not."""
        return self.collection["extractor"]["id"]

    @property
    def sources(self) -> Sequence[str]:
        """Return the ids of the collections that it reads; empty if it reads buckets."""
        return self.collection["source"]["collection_ids"]

    @property
    def input_mappings(self) -> Mapping[str, str]:
        """Return the configured inputs of the extractor: name → blob property or path of a field."""
        return self.collection["extractor"]["input_mappings"]

    def reads(self, blob: BlobView) -> bool:
        """Return whether the stage reads the blob, or would if its extractor could be used here."""
        if self.extractor is None:
            return True
        if self.input_mappings:
            return blob.property in self.input_mappings.values()
        return self.extractor.info.reads(blob)

    def context_for(self, view: ObjectView) -> ExtractionContext:
        """Return the context with what the input mappings resolve to: blobs of a property, or a field's value."""
        if not self.input_mappings:
            return self.context
        inputs: dict[str, object] = {}
        for name, path in self.input_mappings.items():
            blobs = [blob for blob in view.blobs if blob.property == path]
            inputs[name] = (blobs[0] if len(blobs) == 1 else blobs) if blobs else get_path(view.fields, path)
        return ExtractionContext(self.context.parameters, inputs, self.context.outbound)

    def pass_through(self, fields: Mapping[str, object]) -> dict[str, object]:
        """Return a copy of the source's fields that the collection passes on.

        Raises :class:`PermanentError` when a required field is missing.
        """
        config = self.collection["extractor"]
        passed = {name: copy_json(value) for name, value in fields.items()} if includes_all(config) else {}
        for rule in config["field_passthrough"]:
            path = rule["source_path"]
            value = get_path(fields, path, _MISSING)
            if value is _MISSING:
                value = rule["default"]
                if value is None and rule["required"]:
                    raise PermanentError(f"the field '{path}' is required by the collection and missing")
                if value is None:
                    continue
            set_path(passed, target_of(rule), copy_json(value))
        return passed


Plan = tuple[PipelineStage, ...]


@dataclass(frozen=True)
class _Read:
    """A plan that is being read or has been read, and when the reading started."""

    started_at: datetime
    plan: "asyncio.Future[Plan]"


class ExtractionPlans:
    """Reads the plans of buckets and caches them for ``CACHE_SECONDS``."""

    def __init__(
        self, collections: Collections, registry: ExtractorRegistry, outbound: OutboundPolicy, *, clock: Clock
    ) -> None:
        self._collections = collections
        self._registry = registry
        self._outbound = outbound
        self._clock = clock
        self._cache: TTLCache[str, _Read] = TTLCache(10_000, CACHE_SECONDS)

    async def get(self, bucket_id: str, *, since: datetime) -> Plan:
        """Return the collections that the bucket feeds, each after its sources, as they were at ``since`` or later."""
        read = self._cache.get(bucket_id)
        if read is None or read.started_at < since:
            # Concurrent callers share one read: hundreds of objects may want the same plan at the same moment.
            read = _Read(self._clock.now(), asyncio.ensure_future(self._read(bucket_id)))
            read.plan.add_done_callback(partial(self._discard_failed, bucket_id))
            self._cache[bucket_id] = read
        return read.plan.result() if read.plan.done() else await asyncio.shield(read.plan)

    async def live(self, collection_ids: Sequence[str]) -> set[str]:
        """Return those of the collections that exist and are not being deleted."""
        return await self._collections.live_ids(collection_ids)

    async def _read(self, bucket_id: str) -> Plan:
        tiers = await self._collections.tiers_of_bucket(bucket_id)
        ordered = topological_order(collection for tier in tiers for collection in tier)
        # The first use of an extractor imports its libraries, which takes long.
        return await asyncio.to_thread(lambda: tuple(map(self._stage, ordered)))

    def _discard_failed(self, bucket_id: str, plan: "asyncio.Future[Plan]") -> None:
        read = self._cache.get(bucket_id)
        if (plan.cancelled() or plan.exception() is not None) and read is not None and read.plan is plan:
            del self._cache[bucket_id]

    def _stage(self, collection: CollectionDocument) -> PipelineStage:
        config = collection["extractor"]
        extractor: Extractor | None = None
        problem: ExtractionError | None = None
        parameters: Mapping[str, object] = {}
        try:
            extractor = self._registry.find(config["name"], config["version"])
            parameters = validate_parameters(extractor.info, config["parameters"])
        except UnknownExtractor:
            # During a rolling update another processor may have it already.
            problem = TransientError(f"the extractor {config['name']} {config['version']} is not installed here")
        except ValidationFailed as error:
            messages = "; ".join(str(issue["message"]) for issue in error.issues)
            problem = PermanentError(f"the extractor no longer takes the collection's parameters: {messages}")
        return PipelineStage(collection, extractor, problem, ExtractionContext(parameters, {}, self._outbound))


def select_stages(plan: Plan, only: Sequence[str]) -> Plan:
    """Return the stages with these ids or names, and the stages that feed them."""
    needed = ids_with_sources((stage.collection for stage in plan), only)
    return tuple(stage for stage in plan if stage.id in needed)


def copy_json(value: object) -> object:
    """Copy JSON data, which is faster than ``deepcopy``."""
    if isinstance(value, dict):
        return {name: copy_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [copy_json(inner) for inner in value]
    return value
