"""Every component goes with the base alone: what an overlay leaves out is not missed by the others."""

import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
from tests.deploy.rendering import COMPONENTS, pods, render, with_component
from tests.deploy.test_network import INSIDE, INTERNET, labels_of, may_leave_to
from tests.deploy.test_schemas import NEWEST, is_core


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_renders_with_the_base_alone(name: str) -> None:
    target = with_component(name)
    for manifest in render(target):
        if is_core(manifest):
            assert kubernetes_validate.validate(manifest, NEWEST[-1], strict=True) == NEWEST[-1]
    assert set(pods(target)) == set(pods("base"))


@pytest.mark.parametrize(("component", "service"), [("batch-webhooks", "batcher"), ("webhooks", "ingest-api")])
def test_webhook_component_lets_one_service_reach_public_addresses_only(component: str, service: str) -> None:
    target = with_component(component)

    def reach(address: str) -> set[str]:
        return {name for name, labels in labels_of(target).items() if may_leave_to(target, labels, address, 443)}

    assert all(reach(address) == {"dedup", service} for address in INTERNET)
    assert not any(reach(address) for address in INSIDE)
