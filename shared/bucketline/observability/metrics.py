"""All metrics. Durations are in seconds and sizes in bytes. Each service exports them at ``/metrics``."""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

HTTP_SECONDS = Histogram(
    "http_server_request_duration_seconds",
    "Duration of an HTTP request.",
    ["method", "route", "status"],
    buckets=_FAST,
)
STORE_SECONDS = Histogram(
    "bucketline_mongodb_operation_duration_seconds",
    "Duration of a MongoDB operation.",
    ["collection", "operation"],
    buckets=_FAST,
)
S3_SECONDS = Histogram(
    "bucketline_s3_request_duration_seconds", "Duration of an S3 request.", ["operation", "outcome"], buckets=_FAST
)
GROUP_SIZE = Histogram("bucketline_bulk_write_size", "Writes combined in one bulk write.", ["name"], buckets=_SIZES)

RECORDS = Counter("bucketline_records_total", "Consumed records by outcome.", ["topic", "outcome"])
BATCH_SECONDS = Histogram(
    "bucketline_consumer_batch_duration_seconds",
    "Duration of processing a micro-batch of records.",
    ["topic"],
    buckets=_FAST,
)
BATCH_SIZE = Histogram("bucketline_consumer_batch_size", "Records in a micro-batch.", ["topic"], buckets=_SIZES)
RETRIES = Counter("bucketline_retries_total", "Attempts after the first one, by operation.", ["what"])
DEAD_LETTERS = Counter("bucketline_dead_letters_total", "Records sent to a dead-letter topic.", ["topic", "group"])
LAG = Gauge("bucketline_consumer_lag", "Records that the consumer has not processed yet.", ["topic"])
JOINED = Gauge(
    "bucketline_consumer_joined",
    "1 while the consumer is a member of its group and has its assignment, which may be empty; otherwise 0.",
    ["topic"],
)
PUBLISHED = Counter("bucketline_published_total", "Records published and acknowledged by the broker.", ["topic"])

OUTBOX_AGE = Gauge(
    "bucketline_outbox_oldest_event_age_seconds", "Age of the oldest event that is not published.", ["collection"]
)
SWEPT = Counter("bucketline_reconciled_total", "Repairs by a reconciler, by kind.", ["what"])

# Work that is queued in MongoDB and not visible as consumer lag. Every replica reports the total.
OBJECTS_DUE = Gauge(
    "bucketline_mirror_queue_depth",
    "Objects that are due for mirroring and not claimed, counted up to 10,000.",
    ["size_class"],
)
UNITS_OPEN = Gauge(
    "bucketline_work_units_pending",
    "Work units that are running or ready to run, counted up to 1,000.",
)

OBJECTS = Counter("bucketline_objects_total", "Objects by outcome of the request.", ["outcome"])
STATUS_CHANGES = Counter("bucketline_status_changes_total", "Status changes of objects.", ["status"])
STAGE_SECONDS = Histogram(
    "bucketline_stage_duration_seconds", "Time an object spent in a stage.", ["stage"], buckets=_SLOW
)
END_TO_END_SECONDS = Histogram(
    "bucketline_end_to_end_duration_seconds",
    "Time from the accepted request to the final status.",
    ["status"],
    buckets=_SLOW,
)

BLOBS = Counter("bucketline_blobs_total", "Mirrored blobs by outcome.", ["outcome"])
BLOB_BYTES = Counter("bucketline_blob_bytes_total", "Bytes of content that were received or stored.", ["what"])
DOCUMENTS = Counter("bucketline_documents_total", "Documents written by extractor.", ["extractor"])
EXTRACTION_SECONDS = Histogram(
    "bucketline_extraction_duration_seconds", "Duration of an extraction.", ["extractor", "outcome"], buckets=_SLOW
)
UNITS = Counter("bucketline_work_units_total", "Work units by outcome.", ["outcome"])
