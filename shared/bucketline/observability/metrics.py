"""Every metric, in one place. Durations in seconds, sizes in bytes; exported at ``/metrics`` of each service."""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

HTTP_SECONDS = Histogram(
    "http_server_request_duration_seconds",
    "Time to answer a request.",
    ["method", "route", "status"],
    buckets=_FAST,
)
STORE_SECONDS = Histogram(
    "bucketline_mongodb_operation_duration_seconds",
    "Time of one call to MongoDB.",
    ["collection", "operation"],
    buckets=_FAST,
)
S3_SECONDS = Histogram(
    "bucketline_s3_request_duration_seconds", "Time of one call to S3.", ["operation", "outcome"], buckets=_FAST
)
GROUP_SIZE = Histogram("bucketline_bulk_write_size", "Writes that shared one group commit.", ["name"], buckets=_SIZES)

RECORDS = Counter("bucketline_records_total", "Records of the bus, by what became of them.", ["topic", "outcome"])
BATCH_SECONDS = Histogram(
    "bucketline_consumer_batch_duration_seconds", "Time to handle one micro-batch of records.", ["topic"], buckets=_FAST
)
BATCH_SIZE = Histogram("bucketline_consumer_batch_size", "Records in one micro-batch.", ["topic"], buckets=_SIZES)
RETRIES = Counter("bucketline_retries_total", "Attempts after the first, by what was tried again.", ["what"])
DEAD_LETTERS = Counter("bucketline_dead_letters_total", "Records sent to a dead-letter topic.", ["topic", "group"])
LAG = Gauge("bucketline_consumer_lag", "Records not yet handled by this consumer.", ["topic"])
JOINED = Gauge(
    "bucketline_consumer_joined",
    "1 while this consumer is a member of its group and knows its share, which may be nothing; 0 otherwise.",
    ["topic"],
)
PUBLISHED = Counter("bucketline_published_total", "Records published and acknowledged.", ["topic"])

OUTBOX_AGE = Gauge(
    "bucketline_outbox_oldest_event_age_seconds", "Age of the oldest event not yet published.", ["collection"]
)
SWEPT = Counter("bucketline_reconciled_total", "What a sweeper drove again or cleared away.", ["what"])

# Work that the bus is rid of and MongoDB remembers: no consumer's lag shows it. Every replica counts all of it.
OBJECTS_DUE = Gauge(
    "bucketline_mirror_queue_depth",
    "Objects that are due to be fetched for and that no turn has taken; 10,000 may be more.",
    ["lane"],
)
UNITS_OPEN = Gauge(
    "bucketline_work_units_pending",
    "Work units that processors have or may take; 1,000 may be more. Held ones are not in it.",
)

OBJECTS = Counter("bucketline_objects_total", "Objects, by what the API did.", ["outcome"])
STATUS_CHANGES = Counter("bucketline_status_changes_total", "Status changes applied to objects.", ["status"])
STAGE_SECONDS = Histogram(
    "bucketline_stage_duration_seconds", "Time an object spent in a stage.", ["stage"], buckets=_SLOW
)
END_TO_END_SECONDS = Histogram(
    "bucketline_end_to_end_duration_seconds",
    "From the accepted request to the final status.",
    ["status"],
    buckets=_SLOW,
)

BLOBS = Counter("bucketline_blobs_total", "Blobs dealt with, by outcome.", ["outcome"])
BLOB_BYTES = Counter("bucketline_blob_bytes_total", "Bytes of content, hashed or stored.", ["what"])
DOCUMENTS = Counter("bucketline_documents_total", "Documents written.", ["extractor"])
EXTRACTION_SECONDS = Histogram(
    "bucketline_extraction_duration_seconds", "Time of one extraction.", ["extractor", "outcome"], buckets=_SLOW
)
UNITS = Counter("bucketline_work_units_total", "Work units, by what happened.", ["outcome"])
