"""A collector of traces on loopback: OTLP over HTTP, as much as an exporter needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

KINDS = ("", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")


@dataclass(frozen=True)
class Exported:
    """A span as it arrived; ids in hex, ``parent`` empty for a root, ``links`` as trace ids."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: frozenset[str]
    attributes: Mapping[str, object] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.service}: {self.kind} {self.name} [{self.id} < {self.parent or 'root'}]"


class Collector:
    """Keeps every span that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Exported] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    def of(self, trace: str) -> list[Exported]:
        return [span for span in self.spans if span.trace == trace]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        export = ExportTraceServiceRequest.FromString(await request.read())
        for resource in export.resource_spans:
            service = str(_values(resource.resource.attributes)["service.name"])
            self.spans += [
                Exported(
                    service,
                    span.name,
                    KINDS[span.kind],
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    frozenset(link.trace_id.hex() for link in span.links),
                    _values(span.attributes),
                )
                for scope in resource.scope_spans
                for span in scope.spans
            ]
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )


def _values(rows: "list[KeyValue]") -> dict[str, object]:
    return {row.key: getattr(row.value, str(row.value.WhichOneof("value"))) for row in rows}
