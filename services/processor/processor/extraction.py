"""One object through its collections: tiers in order, the collections of a tier one after the other."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bucketline.domain.status import Status
from bucketline.errors import StoreUnavailable
from bucketline.extraction import (
    Document,
    ExtractionContext,
    ExtractionError,
    ExtractorRegistry,
    ObjectView,
    OutboundPolicy,
    ResourceError,
    TransientError,
    validate_parameters,
)
from bucketline.runtime import Runtime
from bucketline.storage.batches import Item
from bucketline.storage.collections import CollectionDocument
from bucketline.storage.documents import DocumentDocument, Documents
from bucketline.storage.objects import ObjectDocument
from bucketline.telemetry.logging import get_logger
from bucketline.telemetry.metrics import DOCUMENTS, EXTRACTION_SECONDS
from processor.derived import DerivedBlobs
from processor.documents import document_of, passed_through
from processor.plans import Plans
from processor.sandbox import Sandbox
from processor.settings import ProcessorSettings
from processor.views import document_view, mapped_inputs, object_view

log = get_logger(__name__)

KEPT_IN_MEMORY = 200
"""Documents of one object beyond these are written as they come, and not with its status."""

Strategy = Literal["skip", "replace", "force"]


@dataclass
class Extracted:
    """What became of one object. ``documents`` are still to be written, ``replaced`` still to be cleaned up."""

    status: Status
    count: int = 0
    documents: list[DocumentDocument] = field(default_factory=list)
    replaced: list[tuple[str, str, int]] = field(default_factory=list)
    error: str | None = None
    error_type: Literal["transient", "permanent", "resource"] | None = None


class Extraction:
    """Runs extractors: cheap ones in the event loop, CPU-bound ones in the sandbox."""

    def __init__(
        self,
        runtime: Runtime,
        plans: Plans,
        registry: ExtractorRegistry,
        sandbox: Sandbox,
        settings: ProcessorSettings,
    ) -> None:
        self._runtime = runtime
        self._plans = plans
        self._registry = registry
        self._sandbox = sandbox
        self._settings = settings
        self._stored = Documents(runtime.database)
        self._derived = DerivedBlobs(runtime)
        self._temp_dir: Path | None = settings.temp_dir
        secret = settings.model_secret.get_secret_value() if settings.model_secret else None
        self._outbound = OutboundPolicy(allowed_endpoints=settings.model_endpoints, signing_secret=secret)

    async def run(self, obj: ObjectDocument, item: Item, only: list[str] | None, strategy: Strategy) -> Extracted:
        """The object through every collection that reads it.

        A collection that fails does not stop the others; the error of the first names what is wrong. Raises
        ``StoreUnavailable`` when nothing can be said about the object now.
        """
        outcome = Extracted(Status.COMPLETED)
        failures: list[tuple[CollectionDocument, ExtractionError]] = []
        tiers = await self._plans.tiers(obj["bucket_id"], only)
        collections = [collection for tier in tiers for collection in tier]
        view = object_view(obj, self._runtime.blobs, self._temp_dir)
        before = obj.get("document_count") is not None or obj["revision"] > 1
        before = before or obj.get("batch_id") not in (None, item["batch_id"])
        for collection in collections:
            if before and strategy == "skip":
                made = await self._stored.made(obj["_id"], collection["_id"], obj["revision"])
                if made:
                    outcome.count += made
                    continue
            try:
                await self._collection(obj, view, collection, item["run"], outcome)
            except ExtractionError as error:
                failures.append((collection, error))
            else:
                if before:
                    outcome.replaced.append((obj["_id"], collection["_id"], item["run"]))
        if failures:
            first = failures[0][1]
            outcome.status = Status.FAILED if len(failures) == len(collections) else Status.COMPLETED_WITH_ERRORS
            outcome.error = "; ".join(f"{collection['name']}: {error.message}" for collection, error in failures)
            outcome.error_type = first.kind
        return outcome

    async def _collection(
        self, obj: ObjectDocument, view: ObjectView, collection: CollectionDocument, run: int, outcome: Extracted
    ) -> None:
        """Adds the collection's documents to ``outcome``; none of them when it fails and they are few."""
        config = collection["extractor"]
        before, kept = outcome.count, len(outcome.documents)
        with EXTRACTION_SECONDS.labels(config["id"], "all").time():
            try:
                if collection["source"]["type"] == "bucket":
                    await self._source(obj, view, collection, None, run, outcome)
                else:
                    await self._write(outcome)
                    async for parent in self._parents(obj, collection, run):
                        await self._source(obj, document_view(parent, view), collection, parent, run, outcome)
            except ExtractionError:
                outcome.count = before
                del outcome.documents[kept:]
                await self._stored.collection.delete_many(
                    {"object_id": obj["_id"], "collection_id": collection["_id"], "run": run}
                )
                raise
        DOCUMENTS.labels(config["id"]).inc(outcome.count - before)

    async def _source(
        self,
        obj: ObjectDocument,
        view: ObjectView,
        collection: CollectionDocument,
        parent: DocumentDocument | None,
        run: int,
        outcome: Extracted,
    ) -> None:
        fields = passed_through(collection, view)
        ordinal = 0
        async with aclosing(self._documents(view, collection)) as documents:
            async for made in documents:
                if outcome.count >= self._settings.documents_an_object:
                    raise ResourceError(f"more than {self._settings.documents_an_object} documents of one object")
                outcome.documents.append(
                    document_of(
                        made,
                        fields=fields,
                        obj=obj,
                        collection=collection,
                        parent=parent,
                        ordinal=ordinal,
                        run=run,
                        now=self._runtime.clock.now(),
                        derived_blobs=await self._derived.store(made.blobs),
                    )
                )
                ordinal += 1
                outcome.count += 1
                if len(outcome.documents) >= KEPT_IN_MEMORY:
                    await self._write(outcome)

    async def _documents(self, view: ObjectView, collection: CollectionDocument) -> AsyncGenerator[Document, None]:
        """What the extractor yields. A transient error before the first document is tried again."""
        config = collection["extractor"]
        extractor = self._registry.find(config["name"], config["version"])
        context = ExtractionContext(
            parameters=validate_parameters(extractor.info, config["parameters"]),
            inputs=mapped_inputs(config["input_mappings"], view),
            outbound=self._outbound,
        )

        def begin() -> AsyncIterator[Document]:
            if extractor.info.cpu_bound:
                return self._sandbox.run(extractor.info.id, view, context)
            return extractor.extract(view, context)

        yielded = 0
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self._settings.object_attempts),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            reraise=True,
        ):
            with attempt:
                try:
                    skip = yielded
                    documents = begin()
                    async for document in documents:
                        if skip:
                            skip -= 1
                            continue
                        yielded += 1
                        yield document
                except (ExtractionError, StoreUnavailable, GeneratorExit):
                    raise
                except Exception as error:
                    log.exception("an extractor raised", extractor=extractor.info.label, object_id=view.object_id)
                    raise ExtractionError.of("permanent", f"the extractor failed: {type(error).__name__}") from error

    async def _parents(
        self, obj: ObjectDocument, collection: CollectionDocument, run: int
    ) -> AsyncIterator[DocumentDocument]:
        sources = collection["source"]["collection_ids"]
        where = {"object_id": obj["_id"], "collection_id": {"$in": sources}, "run": run}
        async for parent in self._stored.collection.stream(where, sort=[("collection_id", 1), ("_id", 1)]):
            yield parent

    async def _write(self, outcome: Extracted) -> None:
        await self._stored.put(outcome.documents)
        outcome.documents.clear()
