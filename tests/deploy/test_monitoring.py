"""Alerts and dashboards ask for metrics that the services export, and every alert has a page in the runbooks."""

import json
import re

import promql_parser
import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from promql_parser import AggregateExpr, BinaryExpr, Call, Expr, MatchOp, VectorSelector
from tests.deploy.rendering import K8S, ROOT, Manifest, of_kind, pods, selects

from bucketline.domain.status import FAILURES
from bucketline.observability import metrics
from bucketline.settings import SERVICES

PRODUCTION = "overlays/production"
# what Prometheus itself adds to every scrape
OF_PROMETHEUS = {"up"}
FROM_SCRAPE = {"namespace", "job", "pod"}


def exported() -> set[str]:
    """Every name that a service's /metrics may show, from the registry in which the code declares them."""
    assert metrics.RECORDS  # declared on import
    suffixes = {
        "counter": ("_total", "_created"),
        "histogram": ("_bucket", "_sum", "_count", "_created"),
        "gauge": ("",),
        "info": ("_info",),
    }
    return {
        family.name + suffix
        for collector in list(REGISTRY._collector_to_names)
        for family in (collector.describe() if hasattr(collector, "describe") else collector.collect())
        for suffix in suffixes[family.type]
    } | {sample.name for family in REGISTRY.collect() for sample in family.samples}


def nodes(expression: str | Expr) -> list[Expr]:
    """Every part of a PromQL expression; parsing checks syntax, functions and types."""
    if isinstance(expression, str):
        expression = promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    found: list[Expr] = []
    promql_parser.walk(expression, found.append)
    return found


def names_in(expression: str | Expr) -> set[str]:
    """The metrics that a PromQL expression reads."""
    return {str(node.name) for node in nodes(expression) if isinstance(node, VectorSelector)}


def labels_in(expression: str | Expr) -> set[tuple[str, str]]:
    """(metric, label) of every matcher."""
    selectors = [node for node in nodes(expression) if isinstance(node, VectorSelector)]
    return {(str(node.name), matcher.name) for node in selectors for matcher in node.matchers.matchers}


def alerts() -> list[Manifest]:
    (rule,) = of_kind(PRODUCTION, "PrometheusRule")
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def dashboards() -> dict[str, Manifest]:
    (config,) = [
        m for m in of_kind(PRODUCTION, "ConfigMap") if m["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    ]
    return {name: json.loads(text) for name, text in config["data"].items()}


def queries() -> list[str]:
    targets = [
        target["expr"]
        for dashboard in dashboards().values()
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    variables = [
        variable["definition"].removeprefix("label_values(").removesuffix(", namespace)")
        for dashboard in dashboards().values()
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    scaling = [
        trigger["metadata"]["query"]
        for scaled in of_kind(PRODUCTION, "ScaledObject")
        for trigger in scaled["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    ]
    return targets + variables + scaling + [alert["expr"] for alert in alerts()]


def test_every_metric_asked_for_is_exported() -> None:
    known = exported() | OF_PROMETHEUS
    asked = {name for query in queries() for name in names_in(query)}
    assert asked <= known, sorted(asked - known)
    assert "bucketline_outbox_oldest_event_age_seconds" in asked


def declared() -> dict[str, set[str]]:
    """The labels of every metric that the code declares, by its name without the suffix of a sample."""
    found = {
        family.name: set(getattr(collector, "_labelnames", ()))
        | ({"le"} if isinstance(collector, Histogram) else set())
        for collector in vars(metrics).values()
        if isinstance(collector, Counter | Gauge | Histogram)
        for family in collector.describe()
    }
    assert found
    return found


def labels_of(name: str) -> set[str]:
    """What a series of this name may be told apart by: its own labels and those of the scrape."""
    return declared().get(re.sub(r"_(total|bucket|count|sum)$", "", name), set()) | FROM_SCRAPE


def grouped(expression: str | Expr) -> list[tuple[set[str], Expr]]:
    """(labels, what is aggregated) of every ``by (…) (…)``."""
    return [
        (set(node.modifier.labels), node.expr)
        for node in nodes(expression)
        if isinstance(node, AggregateExpr) and node.modifier
    ]


def labels_left(expression: str) -> set[str]:
    """The labels of the result, as far as a legend or a text may name them."""
    calls = [node for node in nodes(expression) if isinstance(node, Call) and node.func.name == "absent"]
    absent = {label for call in calls for _, label in labels_in(call)}
    return set[str]().union(absent, *(labels for labels, _ in grouped(expression)))


def test_every_label_matched_is_one_that_the_metric_has() -> None:
    for query in queries():
        for name, label in labels_in(query):
            assert label in labels_of(name), (name, label)


def test_every_label_grouped_by_is_one_that_the_metric_has() -> None:
    seen = 0
    for query in queries():
        for labels, inner in grouped(query):
            for name in names_in(inner):
                assert labels <= labels_of(name), (name, labels)
                seen += 1
        # joins are on labels that both sides still have
        for join in nodes(query):
            if isinstance(join, BinaryExpr) and join.modifier and join.modifier.matching:
                (left, _), (right, _) = grouped(join.lhs)[-1], grouped(join.rhs)[0]
                assert set(join.modifier.matching.labels) <= left & right, query
    assert seen > 30


def test_texts_and_legends_name_labels_that_are_left() -> None:
    for alert in alerts():
        named = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
        assert named <= labels_left(alert["expr"]), alert["alert"]
    for dashboard in dashboards().values():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert named <= labels_left(target["expr"]), panel["title"]


HOUSEKEEPING = {"upload", "staging", "draft without window"}
REPAIRS = {
    *("mirror", "object without unit", "waiting object", "unit", "batch"),
    *("object status", "batch of an object", "removal", "outbox objects"),
}


def test_stall_alert_excludes_routine_work_of_reconcilers() -> None:
    sources = [
        path.read_text(encoding="utf-8") for part in ("services", "shared") for path in (ROOT / part).rglob("*.py")
    ]
    told = {what for text in sources for what in re.findall(r'SWEPT\.labels\(f?"([^"]+)"\)', text)}
    assert told - {"outbox {self._name}"} | {"outbox objects"} == HOUSEKEEPING | REPAIRS, "which of the two is it?"
    expr = next(alert["expr"] for alert in alerts() if alert["alert"] == "BucketlineWorkStalls")
    (left_out,) = re.findall(r'what!~"([^"]+)"', expr)
    assert {what for what in HOUSEKEEPING | REPAIRS if re.fullmatch(left_out, what)} == HOUSEKEEPING


def expression(alert: str) -> str:
    (found,) = [rule["expr"] for rule in alerts() if rule["alert"] == alert]
    return str(found)


def test_a_service_that_is_up_and_does_not_work_raises_an_alert() -> None:
    joined = expression("BucketlineConsumerNotJoined")
    assert re.sub(r"\s+", " ", joined) == "max by (namespace, job, topic) (bucketline_consumer_joined) == 0"
    assert metrics.JOINED._labelnames == ("topic",)
    assert names_in(expression("BucketlineRestarts")) == {"process_start_time_seconds"}


def test_a_processor_that_extracts_is_not_stuck_although_its_line_is_full() -> None:
    stuck = expression("BucketlineConsumerStuck")
    assert names_in(stuck) == {
        "bucketline_consumer_lag",
        "bucketline_records_total",
        "bucketline_extraction_duration_seconds_count",
    }
    (last, *_) = [node for node in nodes(stuck) if isinstance(node, BinaryExpr) and str(node.op) == "unless"]
    assert names_in(last.rhs) == {"bucketline_extraction_duration_seconds_count"}


def test_a_partial_failure_is_among_the_failures_and_among_all() -> None:
    part, whole = re.findall(r'status=~?"([^"]+)"', expression("BucketlineObjectsFail"))
    assert set(part.split("|")) == FAILURES
    assert set(whole.split("|")) == set(part.split("|")) | {"COMPLETED"}


def test_absence_is_asked_of_a_plain_selector() -> None:
    """absent() of anything else has no labels: four of them would be one alert that does not say what is away."""
    for alert in alerts():
        for call in nodes(alert["expr"]):
            if isinstance(call, Call) and call.func.name == "absent":
                (selector,) = call.args
                assert isinstance(selector, VectorSelector)
                assert [matcher.op for matcher in selector.matchers.matchers] == [MatchOp.Equal], alert["alert"]


def test_every_alert_names_its_page_and_every_page_its_alert() -> None:
    text = (K8S / "runbooks.md").read_text(encoding="utf-8")
    pages = set(re.findall(r"^## (Bucketline\w+)$", text, flags=re.MULTILINE))
    assert pages == {alert["alert"] for alert in alerts()}
    for alert in alerts():
        where = "https://git.example.com/bucketline/deploy/k8s/runbooks.md"
        assert alert["annotations"]["runbook_url"] == f"{where}#{alert['alert'].lower()}"
        assert alert["annotations"]["summary"]
        assert alert["labels"]["severity"] in {"critical", "warning"}


def test_every_runbook_has_meaning_diagnosis_and_action() -> None:
    text = (K8S / "runbooks.md").read_text(encoding="utf-8")
    for page in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = page.partition("\n")
        if title.startswith("Bucketline"):
            assert re.findall(r"^\*\*(.+?)\*\*", body, flags=re.MULTILINE) == [
                "What it means.",
                "How to look.",
                "What to do.",
            ], title


@pytest.mark.parametrize("service", SERVICES)
def test_prometheus_finds_every_service_under_the_name_that_the_alerts_use(service: str) -> None:
    (monitor,) = of_kind(PRODUCTION, "PodMonitor")
    labels = pods(PRODUCTION)[f"Deployment/bucketline-{service}"]["metadata"]["labels"]
    assert selects(monitor["spec"]["selector"], labels)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    (rename,) = [r for r in endpoint["relabelings"] if r["targetLabel"] == "job"]
    job = rename["replacement"].replace("$1", labels["app.kubernetes.io/component"])
    down = next(alert for alert in alerts() if alert["alert"] == "BucketlineServiceDown")
    assert f'job="{job}"' in down["expr"]


def test_prometheus_scrapes_only_pods_with_a_port() -> None:
    (monitor,) = of_kind(PRODUCTION, "PodMonitor")
    toolbox = pods(PRODUCTION)["Deployment/bucketline-toolbox"]["metadata"]["labels"]
    assert not selects(monitor["spec"]["selector"], toolbox)


def test_dashboards_can_be_imported_side_by_side() -> None:
    found = list(dashboards().values())
    assert len(found) == 2
    assert len({dashboard["uid"] for dashboard in found}) == len(found)
    for dashboard in found:
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(numbers) == len(set(numbers))
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard["panels"])
