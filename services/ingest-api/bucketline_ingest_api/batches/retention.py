"""How long it is known what became of each object of a batch: as long as its work units are kept.

The batch stays, and so do its sums. What units do not say any more afterwards is neither lost nor undone.
"""

from collections.abc import Mapping
from datetime import datetime

from bucketline.db.batches import BatchDocument
from bucketline.db.work_units import KEPT, Latest
from bucketline.domain.status import FINAL, Status


def may_be_forgotten(batch: BatchDocument, now: datetime) -> bool:
    """Whether units of this batch, which is over, may have expired. Before that a missing one is a fault."""
    first = batch["created_at"] if batch.get("retry") else batch.get("submitted_at", batch["created_at"])
    return batch["status"] in FINAL and now - first >= KEPT


def forgotten(batch: BatchDocument, latest: Mapping[str, Latest], now: datetime) -> bool:
    """Whether units have expired: they tell the end of fewer objects than the batch counted when it was over.

    ``latest`` are those of its turn, and for a retry of the turns before too.
    """
    told = sum(last.result is not None and last.result["status"] != Status.DRAFT for last in latest.values())
    return may_be_forgotten(batch, now) and told < batch.get("processed", 0)
