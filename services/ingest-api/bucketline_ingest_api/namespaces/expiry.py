"""Namespaces that are deleted by themselves: a hidden task looks when the time has come.

The task is only an alarm. When the namespace expires is in the namespace, and may have been changed since.
"""

from datetime import timedelta

from bucketline.db.namespaces import NamespaceDocument
from bucketline.db.tasks import TaskDocument
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.namespaces.delete import begin_deletion
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult

KIND = "namespace_expiry"
SHORTEST_SLEEP = timedelta(seconds=30)
"""Longer than the namespace takes to be written."""

MAX_SLEEP = timedelta(days=1)
"""Far below the age at which tasks that nobody touches are forgotten."""


async def watch_expiry(deps: Container, namespace: NamespaceDocument) -> None:
    """Sets the alarm, if the namespace expires; before that is written, for an alarm too many does no harm."""
    expires_at = namespace.get("expires_at")
    if expires_at is None:
        return
    delay = max(SHORTEST_SLEEP, min(MAX_SLEEP, expires_at - deps.clock.now()))
    await deps.runner.create(
        KIND,
        organization_id=namespace["organization_id"],
        namespace_id=namespace["_id"],
        inputs=[namespace["_id"]],
        delay=delay.total_seconds(),
        hidden=True,
    )


async def expiry_turn(deps: Container, task: TaskDocument) -> TaskOutcome:
    """Begins the deletion, or sleeps on."""
    namespace = await deps.namespaces.collection.get(task["inputs"][0])
    expires_at = namespace.get("expires_at") if namespace else None
    if namespace is None or expires_at is None or namespace.get("deleting"):
        return TaskResult()
    now = deps.clock.now()
    if expires_at > now:
        return Reschedule(min(expires_at, now + MAX_SLEEP))
    await begin_deletion(deps, namespace)
    return TaskResult()
