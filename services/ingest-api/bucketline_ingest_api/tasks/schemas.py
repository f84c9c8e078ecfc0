"""Request and response bodies of the task endpoints."""

from typing import Any

from pydantic import Field

from bucketline.domain.status import Status
from bucketline_ingest_api.schemas import ListBody, Pagination, ResponseBody, example

_TASK = {
    "task_id": "task_06h2v9k1m3q5s7t9v1x3",
    "task_type": "api_buckets_batches_process",
    "status": "PENDING",
    "inputs": ["btch_06h2v9k1m3q5s7t9v1x3"],
    "outputs": [],
}


class Task(ResponseBody):
    """Asynchronous work that a client can follow."""

    model_config = example(_TASK)

    task_id: str
    task_type: str
    status: Status
    inputs: list[str]
    outputs: list[str]
    additional_data: dict[str, Any] | None = None
    error: str | None = None
    cancellation: dict[str, int] | None = None


class ListTasks(ListBody):
    """Filters, sorts and pages a list of tasks."""

    model_config = example({"status": "PENDING", "task_type": "api_buckets_batches_process", "limit": 20})

    status: Status | None = None
    task_type: str | None = Field(default=None, max_length=100)


class TaskList(ResponseBody):
    """A page of tasks."""

    model_config = example(
        {
            "results": [_TASK],
            "pagination": {"page": 1, "page_size": 10, "next_page": None, "previous_page": None, "next_cursor": None},
        }
    )

    results: list[Task]
    pagination: Pagination
