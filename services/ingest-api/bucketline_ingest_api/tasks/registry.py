"""Which steps this service knows, by ``task_type``."""

from functools import partial

from bucketline_ingest_api.buckets import delete as buckets
from bucketline_ingest_api.collections import delete as collections
from bucketline_ingest_api.collections import trigger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.namespaces import delete as namespaces
from bucketline_ingest_api.namespaces import expiry
from bucketline_ingest_api.uploads import confirm_jobs as uploads


def register(deps: Container) -> None:
    """Gives the runner its steps."""
    deps.runner.register(buckets.KIND, partial(buckets.bucket_deletion_turn, deps))
    deps.runner.register(buckets.FINAL_SWEEP, partial(buckets.final_sweep, deps))
    deps.runner.register(namespaces.KIND, partial(namespaces.namespace_deletion_turn, deps))
    deps.runner.register(expiry.KIND, partial(expiry.expiry_turn, deps))
    deps.runner.register(collections.KIND, partial(collections.collection_deletion_turn, deps))
    deps.runner.register(trigger.KIND, partial(trigger.trigger_turn, deps))
    deps.runner.register(uploads.ONE, partial(uploads.one_turn, deps))
    deps.runner.register(uploads.MANY, partial(uploads.many_turn, deps))
