"""What the metrics tell of objects that move from status to status."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from bucketline.db.objects import ObjectDocument
from bucketline.domain.status import FINAL, Status, supersedes
from bucketline.events.models import ObjectStatusChanged
from bucketline.observability.metrics import END_TO_END_SECONDS, STAGE_SECONDS, STATUS_CHANGES


class _Seen(NamedTuple):
    """How far an object has come."""

    place: tuple[int, int]
    status: str
    since: datetime | None


def record_status_metrics(events: Sequence[ObjectStatusChanged], known: Mapping[str, ObjectDocument]) -> None:
    """Counts the changes that were applied, as far as can be told from ``known``: the objects as read before them.

    A micro-batch often brings several changes of one object, each is measured from where the one before it left it.
    """
    seen: dict[str, _Seen] = {}
    for event in events:
        obj = known.get(event.object_id)
        if obj is None:
            continue
        run = obj["run"]
        before = seen.get(event.object_id) or _Seen((run["id"], run["rank"]), obj["status"], obj.get("moved_at"))
        place = event.run_id, event.sequence
        if not supersedes(place, before.place):
            continue
        seen[event.object_id] = _Seen(place, event.status, event.occurred_at)
        STATUS_CHANGES.labels(str(event.status)).inc()
        if before.status != Status.DRAFT and before.since is not None:
            stage = STAGE_SECONDS.labels(before.status.lower())
            stage.observe(max(0.0, (event.occurred_at - before.since).total_seconds()))
        if event.run_id == 1 and event.status in FINAL:
            whole = END_TO_END_SECONDS.labels(str(event.status))
            whole.observe(max(0.0, (event.occurred_at - obj["created_at"]).total_seconds()))
