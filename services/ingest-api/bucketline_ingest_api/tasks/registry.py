"""Registers the steps of all task types with the runner."""

from functools import partial

from bucketline_ingest_api.buckets import deletion as buckets
from bucketline_ingest_api.collections import deletion as collections
from bucketline_ingest_api.collections import trigger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.namespaces import deletion as namespaces
from bucketline_ingest_api.uploads import confirmation as uploads


def register(deps: Container) -> None:
    """Register every task type of this service."""
    steps = {
        buckets.TASK_TYPE: buckets.execute_bucket_deletion,
        buckets.FINAL_SWEEP: buckets.execute_final_sweep,
        namespaces.TASK_TYPE: namespaces.execute_namespace_deletion,
        namespaces.EXPIRY_TASK_TYPE: namespaces.execute_expiry,
        collections.TASK_TYPE: collections.execute_collection_deletion,
        trigger.TASK_TYPE: trigger.execute_trigger,
        uploads.CONFIRM_TASK_TYPE: uploads.execute_confirmation,
        uploads.CONFIRM_MANY_TASK_TYPE: uploads.execute_confirmations,
    }
    for task_type, step in steps.items():
        deps.runner.register(task_type, partial(step, deps))
