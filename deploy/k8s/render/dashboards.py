"""Defines the two dashboards. Metric names come from the code that exports them."""

from deploy.k8s.render.panels import Dashboard, Panel, Row
from prometheus_client import Counter, Gauge, Histogram

from bucketline.observability import metrics

IN = '{namespace="$namespace"}'
EVERY = "[$__rate_interval]"


def name_of(metric: Counter | Gauge | Histogram) -> str:
    """Return the name under which Prometheus stores the metric."""
    described = next(iter(metric.describe()))
    return f"{described.name}_total" if isinstance(metric, Counter) else str(described.name)


def _rate(metric: Counter, by: str) -> tuple[str, str]:
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return f"sum by ({by}) (rate({name_of(metric)}{IN}{EVERY}))", legend


def _events(metric: Histogram, by: str) -> tuple[str, str]:
    return f"sum by ({by}) (rate({name_of(metric)}_count{IN}{EVERY}))", f"{{{{{by}}}}}"


def _quantile(metric: Histogram, quantile: float, by: str = "") -> tuple[str, str]:
    labels = f"le, {by}" if by else "le"
    rate = f"sum by ({labels}) (rate({name_of(metric)}_bucket{IN}{EVERY}))"
    name = f"p{quantile * 100:g}"
    return f"histogram_quantile({quantile}, {rate})", f"{name} {{{{{by}}}}}" if by else name


def _share(metric: Counter, what: str) -> tuple[str, str]:
    """Return the share of received bytes that were ``what``."""

    def rate(of: str) -> str:
        return f'sum(rate({name_of(metric)}{{namespace="$namespace",what="{of}"}}{EVERY}))'

    return f"{rate(what)} / {rate('received')}", what


def _gauge(metric: Gauge, by: str) -> tuple[str, str]:
    return f"max by ({by}) ({name_of(metric)}{IN})", f"{{{{{by}}}}}"


PIPELINE = Dashboard(
    uid="bucketline-pipeline",
    title="Bucketline / Pipeline",
    rows=(
        Row(
            "From request to final status",
            (
                Panel("Objects accepted, by outcome", "ops", (_rate(metrics.OBJECTS, "outcome"),)),
                Panel("Status changes", "ops", (_rate(metrics.STATUS_CHANGES, "status"),)),
                Panel(
                    "End-to-end latency",
                    "s",
                    tuple(_quantile(metrics.END_TO_END_SECONDS, q) for q in (0.5, 0.95, 0.99)),
                    "From the accepted request to the final status of the object.",
                ),
            ),
        ),
        Row(
            "Backlog",
            (
                Panel(
                    "Consumer lag",
                    "short",
                    ((f"sum by (job, topic) ({name_of(metrics.LAG)}{IN})", "{{job}} {{topic}}"),),
                    "Records not handled yet, as each consumer sees its own partitions.",
                ),
                Panel(
                    "Backlog in MongoDB",
                    "short",
                    (
                        (f"max by (size_class) ({name_of(metrics.OBJECTS_DUE)}{IN})", "objects due, {{size_class}}"),
                        (f"max by (namespace) ({name_of(metrics.UNITS_OPEN)}{IN})", "work units open"),
                    ),
                    "Work that consumer lag does not include. Counts stop at 10,000 objects per queue and 1,000 units.",
                ),
                Panel("Oldest event not yet published", "s", (_gauge(metrics.OUTBOX_AGE, "collection"),)),
                Panel("Time in stage, p95", "s", (_quantile(metrics.STAGE_SECONDS, 0.95, "stage"),)),
            ),
        ),
        Row(
            "Failures and repairs",
            (
                Panel("Dead letters", "ops", (_rate(metrics.DEAD_LETTERS, "topic, group"),)),
                Panel("Retries", "ops", (_rate(metrics.RETRIES, "what"),)),
                Panel("Repaired by a reconciler", "ops", (_rate(metrics.SWEPT, "what"),)),
            ),
        ),
        Row(
            "Blobs and documents",
            (
                Panel("Blobs, by outcome", "ops", (_rate(metrics.BLOBS, "outcome"),), "Shows the share of duplicates."),
                Panel("Content", "Bps", (_rate(metrics.BLOB_BYTES, "what"),)),
                Panel("Bytes saved by deduplication", "percentunit", (_share(metrics.BLOB_BYTES, "duplicate"),)),
                Panel("Documents", "ops", (_rate(metrics.DOCUMENTS, "extractor"),)),
                Panel("Work units", "ops", (_rate(metrics.UNITS, "outcome"),)),
            ),
        ),
    ),
)

SERVICES = Dashboard(
    uid="bucketline-services",
    title="Bucketline / Services",
    rows=(
        Row(
            "HTTP",
            (
                Panel("Requests, by status", "reqps", (_events(metrics.HTTP_SECONDS, "status"),)),
                Panel("Latency, p99 by route", "s", (_quantile(metrics.HTTP_SECONDS, 0.99, "route"),)),
            ),
        ),
        Row(
            "Kafka",
            (
                Panel("Records, by outcome", "ops", (_rate(metrics.RECORDS, "topic, outcome"),)),
                Panel("Published", "ops", (_rate(metrics.PUBLISHED, "topic"),)),
                Panel("Time of a micro-batch, p95", "s", (_quantile(metrics.BATCH_SECONDS, 0.95, "topic"),)),
                Panel("Records in a micro-batch, p50", "short", (_quantile(metrics.BATCH_SIZE, 0.5, "topic"),)),
            ),
        ),
        Row(
            "Stores",
            (
                Panel("MongoDB, p95 by operation", "s", (_quantile(metrics.STORE_SECONDS, 0.95, "operation"),)),
                Panel("Writes in a group commit, p50", "short", (_quantile(metrics.GROUP_SIZE, 0.5, "name"),)),
                Panel("S3, p95 by operation", "s", (_quantile(metrics.S3_SECONDS, 0.95, "operation"),)),
                Panel("S3 calls, by outcome", "ops", (_events(metrics.S3_SECONDS, "outcome"),)),
            ),
        ),
        Row(
            "Extraction and processes",
            (
                Panel("Extraction, p95", "s", (_quantile(metrics.EXTRACTION_SECONDS, 0.95, "extractor"),)),
                Panel("Extractions, by outcome", "ops", (_events(metrics.EXTRACTION_SECONDS, "outcome"),)),
                Panel("Memory", "bytes", ((f"max by (job, pod) (process_resident_memory_bytes{IN})", "{{pod}}"),)),
                Panel(
                    "CPU",
                    "short",
                    ((f"sum by (job, pod) (rate(process_cpu_seconds_total{IN}{EVERY}))", "{{pod}}"),),
                    "Cores. Worker processes of the processor are not included.",
                ),
            ),
        ),
    ),
)

DASHBOARDS = (PIPELINE, SERVICES)
