"""The commands that the documents tell people to type: they end, show what they should, and work in their order."""

import re

import pytest
from tests.deploy.rendering import K8S, named, of_kind

DOCUMENTS = ("README.md", "runbooks.md")


def text(document: str) -> str:
    return (K8S / document).read_text(encoding="utf-8").replace("\\\n", " ")


def commands(document: str) -> list[str]:
    """Every kubectl command, from code blocks and between backticks."""
    quoted = re.findall(r"`(kubectl [^`]+)`", text(document).replace("\n", " "))
    blocks = re.findall(r"^ *(kubectl .+?)(?:  +#.*)?$", text(document), flags=re.MULTILINE)
    return [*quoted, *blocks]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_that_waits_waits_long_enough_and_not_for_ever(document: str) -> None:
    waiting = [c for c in commands(document) if re.search(r"\b(wait --for|rollout status)\b", c)]
    assert waiting
    assert [command for command in waiting if "--timeout=" not in command] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_logs_of_several_pods_are_not_cut_to_their_last_lines(document: str) -> None:
    """With a selector kubectl shows ten lines a pod, whatever --since says."""
    logs = [command for command in commands(document) if re.search(r"\blogs\b.* -l ", command)]
    assert [command for command in logs if "--tail=-1" not in command] == []
    assert logs or document == "README.md"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_event_sort_fields_apply_only_to_events(document: str) -> None:
    for command in commands(document):
        if "--sort-by=.lastTimestamp" in command:
            assert "get events" in command


def test_runbook_names_the_log_message_of_an_unavailable_dependency() -> None:
    (page,) = re.findall(r"^## BucketlineApiErrors$(.+?)^## ", text("runbooks.md"), flags=re.MULTILINE | re.DOTALL)
    assert "warning" in re.findall(r"grep -E '([^']+)'", page)[0]
    front = K8S.parents[1] / "services" / "ingest-api" / "bucketline_ingest_api" / "exception_handlers.py"
    assert 'log.warning("dependency unavailable"' in front.read_text(encoding="utf-8")
    assert "`dependency unavailable`" in page


def test_installation_steps_are_in_order() -> None:
    install = text("README.md").partition("## Install")[2].partition("## Upgrade")[0]
    order = [
        "kubectl apply -f deploy/k8s/overlays/production/namespace.yaml",
        "kubectl apply -k deploy/k8s/kafka",
        "kubectl -n kafka wait --for=condition=Ready kafka/bucketline",
        "> ca.crt",
        "create secret generic bucketline-kafka --from-file=ca.crt",
        "kubectl apply --server-side -k overlays/yours",
    ]
    places = [install.index(step) for step in order]
    assert places == sorted(places)
    watched = named("kafka", "Kafka", "bucketline")["spec"]["entityOperator"]
    for operator in ("topicOperator", "userOperator"):
        assert (
            watched[operator]["watchedNamespace"]
            == named("overlays/production", "Namespace", "bucketline")["metadata"]["name"]
        )
    assert "watchAnyNamespace" in install


def test_overlay_is_applied_on_the_server_from_the_start() -> None:
    applied = [command for command in commands("README.md") if "overlays/yours" in command]
    assert len(applied) == 3
    assert all("kubectl apply --server-side -k" in command for command in applied)


def test_number_of_pods_is_handed_over_before_an_autoscaler_is_applied() -> None:
    """Kubernetes' field manager removes a field that leaves the manifest, unless another manager has set it."""
    section = text("README.md").partition("## Adding an autoscaler later")[2].partition("\n## ")[0]
    (scale,) = re.findall(r"^kubectl .* scale (.+) --replicas=", section, flags=re.MULTILINE)
    assert section.index(scale) < section.index("kubectl apply --server-side")
    keda = {item["metadata"]["name"] for item in of_kind("overlays/production", "ScaledObject")}
    assert {name.removeprefix("deployment/") for name in scale.split()} == keda


def test_upgrade_steps_create_indexes_before_starting_services() -> None:
    upgrade = text("README.md").partition("## Upgrade")[2]
    assert upgrade.index("-- bucketline indexes") < upgrade.index("kubectl apply --server-side -k overlays/yours")
