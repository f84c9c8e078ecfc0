"""The span of a request that is answered: what OpenTelemetry's conventions for HTTP servers ask for."""

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.unit.bucketline.observability.test_tracing import named
from tests.unit.bucketline.observability.test_tracing import spans as spans

from bucketline.observability.server_spans import Scope, ended, serving


def request(method: str = "GET", path: str = "/v1/things/7") -> Scope:
    return {"method": method, "path": path, "scheme": "http", "http_version": "1.1"}


def test_a_request_is_named_after_its_route(spans: InMemorySpanExporter) -> None:
    with serving(request(), {}) as opened:
        ended(opened, request(), "/v1/things/{thing}", 200)
    found = named(spans, "GET /v1/things/{thing}")
    assert found.kind is SpanKind.SERVER
    assert found.status.status_code is StatusCode.UNSET
    assert found.attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/things/{thing}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/v1/things/7",
        "network.protocol.version": "1.1",
    }


def test_an_error_of_ours_is_one_and_a_clients_is_not(spans: InMemorySpanExporter) -> None:
    for status in (404, 503):
        with serving(request(), {}) as opened:
            ended(opened, request(), f"/{status}", status)
    missing, broken = named(spans, "GET /404"), named(spans, "GET /503")
    assert missing.attributes is not None
    assert broken.attributes is not None
    assert (missing.status.status_code, missing.attributes.get("error.type")) == (StatusCode.UNSET, None)
    assert (broken.status.status_code, broken.attributes.get("error.type")) == (StatusCode.ERROR, "503")


def test_what_a_client_makes_up_names_no_span(spans: InMemorySpanExporter) -> None:
    scope = request("PROPFIND", "/../secret")
    with serving(scope, {}) as opened:
        ended(opened, scope, None, 404)
    found = named(spans, "HTTP")
    assert found.attributes is not None
    assert found.attributes["http.request.method"] == "_OTHER"
    assert found.attributes["http.request.method_original"] == "PROPFIND"
    assert "http.route" not in found.attributes
