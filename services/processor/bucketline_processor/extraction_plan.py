"""Which collections an object goes through, in which order, and all about them that need not be found out again."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from cachetools import TTLCache

from bucketline.clock import Clock
from bucketline.db.collections import CollectionDocument, Collections, FieldPassthrough, includes_all, target_of
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
from bucketline_processor.extractor_views import resolve_inputs

CACHE_SECONDS = 2.0

_MISSING = object()


@dataclass(frozen=True)
class PipelineStage:
    """One collection of a plan. ``problem`` is set instead of ``extractor`` when it cannot be run here."""

    collection: CollectionDocument
    extractor: Extractor | None
    problem: ExtractionError | None
    context: ExtractionContext
    sources: tuple[str, ...]
    includes_all: bool
    rules: tuple[FieldPassthrough, ...] = field(default=())

    @property
    def id(self) -> str:
        return self.collection["_id"]

    def reads(self, blob: BlobView) -> bool:
        """Return whether the step reads the blob, or would if its extractor could be used here."""
        mappings = self.collection["extractor"]["input_mappings"]
        if self.extractor is None:
            return True
        return blob.property in mappings.values() if mappings else self.extractor.info.reads(blob)

    def context_for(self, view: ObjectView) -> ExtractionContext:
        """The context with what ``input_mappings`` resolve to in the object."""
        mappings = self.collection["extractor"]["input_mappings"]
        if not mappings:
            return self.context
        return ExtractionContext(self.context.parameters, resolve_inputs(mappings, view), self.context.outbound)

    def passed_through(self, fields: Mapping[str, object]) -> dict[str, object]:
        """The source's fields that the collection passes on, as a copy.

        :class:`PermanentError` for a required one that is absent.
        """
        passed = {name: copy_json(value) for name, value in fields.items()} if self.includes_all else {}
        for rule in self.rules:
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


@dataclass(frozen=True)
class _Reading:
    """A plan that is being read, or was."""

    began: datetime
    result: "asyncio.Future[tuple[PipelineStage, ...]]"


class ExtractionPlans:
    """Plans of buckets, remembered for ``CACHE_SECONDS``."""

    def __init__(
        self, collections: Collections, registry: ExtractorRegistry, outbound: OutboundPolicy, *, clock: Clock
    ) -> None:
        self._collections = collections
        self._registry = registry
        self._outbound = outbound
        self._clock = clock
        self._cache: TTLCache[str, _Reading] = TTLCache(10_000, CACHE_SECONDS)

    async def steps(self, bucket_id: str, only: Sequence[str] | None, *, since: datetime) -> tuple[PipelineStage, ...]:
        """The collections that the bucket feeds, each after its sources, as they were at ``since`` or later.

        Restricted to the ids or names in ``only``, and to those that these need to be fed.
        """
        known = self._cache.get(bucket_id)
        if known is None or known.began < since:
            # One reads for all who come meanwhile: hundreds of objects want the same plan at the same moment.
            known = _Reading(self._clock.now(), asyncio.ensure_future(self._read(bucket_id)))
            known.result.add_done_callback(partial(self._read_was, bucket_id))
            self._cache[bucket_id] = known
        found = known.result.result() if known.result.done() else await asyncio.shield(known.result)
        if only is None:
            return found
        needed = ids_with_sources((step.collection for step in found), only)
        return tuple(step for step in found if step.id in needed)

    async def _read(self, bucket_id: str) -> tuple[PipelineStage, ...]:
        tiers = await self._collections.tiers_of_bucket(bucket_id)
        ordered = topological_order(collection for tier in tiers for collection in tier)
        # the first look at an extractor imports its libraries, which takes its time
        return await asyncio.to_thread(lambda: tuple(map(self._step, ordered)))

    def _read_was(self, bucket_id: str, done: "asyncio.Future[tuple[PipelineStage, ...]]") -> None:
        """What could not be read is not remembered."""
        known = self._cache.get(bucket_id)
        if (done.cancelled() or done.exception() is not None) and known is not None and known.result is done:
            del self._cache[bucket_id]

    async def live(self, collection_ids: Sequence[str]) -> set[str]:
        """Which of these collections are still there."""
        found = await self._collections.collection.find(
            {"_id": {"$in": list(collection_ids)}, "deleting": {"$ne": True}}, limit=len(collection_ids), fields=["_id"]
        )
        return {collection["_id"] for collection in found}

    def _step(self, collection: CollectionDocument) -> PipelineStage:
        config = collection["extractor"]
        extractor: Extractor | None = None
        problem: ExtractionError | None = None
        parameters: Mapping[str, object] = {}
        try:
            extractor = self._registry.find(config["name"], config["version"])
            parameters = validate_parameters(extractor.info, config["parameters"])
        except UnknownExtractor:
            # During a roll-out another processor may have it already.
            problem = TransientError(f"the extractor {config['name']} {config['version']} is not installed here")
        except ValidationFailed as error:
            faults = "; ".join(str(fault["message"]) for fault in error.issues)
            problem = PermanentError(f"the extractor no longer takes the collection's parameters: {faults}")
        rules = tuple(config["field_passthrough"])
        return PipelineStage(
            collection=collection,
            extractor=extractor,
            problem=problem,
            context=ExtractionContext(parameters, {}, self._outbound),
            sources=tuple(collection["source"]["collection_ids"]),
            includes_all=includes_all(config),
            rules=rules,
        )


def copy_json(value: object) -> object:
    """A copy of JSON data; quicker than ``deepcopy``, which must be ready for anything."""
    if isinstance(value, dict):
        return {name: copy_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [copy_json(inner) for inner in value]
    return value
