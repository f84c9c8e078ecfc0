"""Registers the steps of all task types with the runner."""

from functools import partial

from bucketline_ingest_api import deletion
from bucketline_ingest_api.collections import trigger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.uploads import confirmation as uploads


def register(deps: Container) -> None:
    """Register every task type of this service."""
    steps = {
        deletion.BUCKET_DELETION: deletion.execute_bucket_deletion,
        deletion.FINAL_SWEEP: deletion.execute_final_sweep,
        deletion.NAMESPACE_DELETION: deletion.execute_namespace_deletion,
        deletion.NAMESPACE_EXPIRY: deletion.execute_expiry,
        deletion.COLLECTION_DELETION: deletion.execute_collection_deletion,
        trigger.TASK_TYPE: trigger.execute_trigger,
        uploads.CONFIRM_TASK_TYPE: uploads.execute_confirmation,
        uploads.CONFIRM_MANY_TASK_TYPE: uploads.execute_confirmations,
    }
    for task_type, step in steps.items():
        deps.runner.register(task_type, partial(step, deps))
