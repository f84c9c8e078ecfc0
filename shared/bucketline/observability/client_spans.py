"""Client spans of stores, inside of a trace that is being recorded; anywhere else they cost one comparison.

Names and attributes follow OpenTelemetry's conventions for databases (stable) and for calls of AWS' APIs.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry.trace import SpanKind, Tracer

from bucketline.observability.tracing import Attribute, failed, recording_tracer

_NOTHING: AbstractContextManager[None] = nullcontext()


def mongodb_call(
    database: str, collection: str, operation: str, batch: int | None = None
) -> AbstractContextManager[None]:
    """Around one round trip to MongoDB. ``operation`` is the command's own name, ``batch`` how many it carries."""
    tracer = recording_tracer()
    if tracer is None:
        return _NOTHING
    attributes: dict[str, Attribute] = {
        "db.system.name": "mongodb",
        "db.namespace": database,
        "db.collection.name": collection,
        "db.operation.name": operation,
    }
    # one operation is no batch, the conventions say
    if batch is not None and batch > 1:
        attributes["db.operation.batch.size"] = batch
    return _span(tracer, f"{operation} {collection}", attributes)


def s3_call(operation: str, bucket: str, key: str) -> AbstractContextManager[None]:
    """Around one request to S3. ``operation`` is the API's own name, such as ``PutObject``."""
    tracer = recording_tracer()
    if tracer is None:
        return _NOTHING
    attributes: dict[str, Attribute] = {
        "rpc.system.name": "aws-api",
        "rpc.method": f"S3/{operation}",
        "aws.s3.bucket": bucket,
    }
    if key:
        attributes["aws.s3.key"] = key
    return _span(tracer, f"S3.{operation}", attributes)


@contextmanager
def _span(tracer: Tracer, name: str, attributes: Mapping[str, Attribute]) -> Iterator[None]:
    # Never the current span: a call has no children here, and a generator may be resumed in another context.
    opened = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    try:
        yield
    except BaseException as error:
        failed(opened, error)
        raise
    finally:
        opened.end()
