"""Who may reach whom, by evaluating the policies as a network plugin would."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.deploy.rendering import OVERLAYS, Manifest, environment, named, of_kind, pods, selects, with_component

from bucketline.http.ssrf import AddressRefused, GuardPolicy, check_address
from bucketline.settings import SERVICES

UNREACHED = ("toolbox", "CronJob/bucketline-gc")
INTERNET = ("1.1.1.1", "93.184.216.34", "2606:4700:4700::1111")
INSIDE = (
    "10.0.0.1",
    "10.96.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "0.0.0.0",  # noqa: S104 - an address that nobody may reach, not one to bind
    "::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:db8::1",
)


def policies_on(target: str, labels: dict[str, str]) -> list[Manifest]:
    return [p["spec"] for p in of_kind(target, "NetworkPolicy") if selects(p["spec"]["podSelector"], labels)]


def within(address: str, block: Manifest) -> bool:
    ip = ip_address(address)
    network = ip_network(block["cidr"])
    if ip.version != network.version or ip not in network:
        return False
    return not any(ip in ip_network(hole) for hole in block.get("except", []))


def may_leave_to(target: str, labels: dict[str, str], address: str, port: int) -> bool:
    """Whether a pod may open a connection to an address outside the cluster."""
    return any(
        within(address, peer["ipBlock"]) and port in [p["port"] for p in rule["ports"]]
        for policy in policies_on(target, labels)
        if "Egress" in policy["policyTypes"]
        for rule in policy.get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    )


def peers(target: str, labels: dict[str, str], direction: str) -> list[tuple[Manifest, Manifest]]:
    key = "to" if direction == "egress" else "from"
    return [
        (rule, peer)
        for policy in policies_on(target, labels)
        if direction.capitalize() in policy["policyTypes"]
        for rule in policy.get(direction, [])
        for peer in rule[key]
    ]


def labels_of(target: str) -> dict[str, dict[str, str]]:
    return {
        name.removeprefix("Deployment/bucketline-"): template["metadata"]["labels"]
        for name, template in pods(target).items()
    }


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_default_is_deny_in_both_directions(target: str) -> None:
    deny = named(target, "NetworkPolicy", "bucketline-default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    stranger = {"app": "somebody-else"}
    assert policies_on(target, stranger) == [deny]


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_no_rule_is_open_to_all_peers_or_all_ports(target: str) -> None:
    for policy in of_kind(target, "NetworkPolicy"):
        spec = policy["spec"]
        for rule in spec.get("egress", []):
            assert rule["to"]
            assert rule["ports"]
        for rule in spec.get("ingress", []):
            assert rule["from"]
            assert [port["port"] for port in rule["ports"]] == ["http"]
        for rule in [*spec.get("egress", []), *spec.get("ingress", [])]:
            for peer in rule.get("to", rule.get("from")):
                assert peer != {}
                assert peer.get("namespaceSelector") != {}


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("base", {"dedup"}),
        ("overlays/dev", {"dedup", "processor"}),
        ("overlays/production", {"dedup", "processor"}),
    ],
)
def test_only_dedup_and_the_http_extractor_reach_the_internet(target: str, allowed: set[str]) -> None:
    for address in INTERNET:
        for port in (80, 443):
            reach = {name for name, labels in labels_of(target).items() if may_leave_to(target, labels, address, port)}
            assert reach == allowed, (address, port)
        assert not any(may_leave_to(target, labels, address, 25) for labels in labels_of(target).values())


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
@pytest.mark.parametrize("address", INSIDE)
def test_no_pod_reaches_private_networks_or_metadata_addresses(target: str, address: str) -> None:
    for name, labels in labels_of(target).items():
        for port in (22, 80, 443, 6443, 8080, 27017):
            assert not may_leave_to(target, labels, address, port), name


def guarded(address: IPv4Address | IPv6Address) -> bool:
    """Whether dedup's own guard lets a fetch go to this address."""
    try:
        check_address(address, GuardPolicy())
    except AddressRefused:
        return False
    return True


EDGES = [
    ip_address(int(edge) + step)
    for block in named("base", "NetworkPolicy", "bucketline-internet")["spec"]["egress"][0]["to"]
    for cidr in (block["ipBlock"]["cidr"], *block["ipBlock"]["except"])
    for edge in (ip_network(cidr)[0], ip_network(cidr)[-1])
    for step in (-1, 0, 1)
    if 0 <= int(edge) + step < 2 ** ip_network(cidr).max_prefixlen
]


@given(st.one_of(st.sampled_from(EDGES), st.ip_addresses()))
@example(ip_address("168.63.129.16"))
@example(ip_address("169.254.169.254"))
def test_network_policy_agrees_with_the_address_guard(address: IPv4Address | IPv6Address) -> None:
    """What the guard refuses, the policy refuses; what it lets through, dedup's pods can reach."""
    labels = labels_of("base")["dedup"]
    open_here = may_leave_to("base", labels, str(address), 443)
    if open_here and not guarded(address):
        # the guard also refuses IPv6 that carries an IPv4 address in its interface part (ISATAP): no prefix says that
        assert isinstance(address, IPv6Address)
        assert (int(address) >> 32) & 0xFDFFFFFF == 0x5EFE
    else:
        assert open_here == guarded(address)


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_each_service_reaches_only_its_dependencies(target: str) -> None:
    reach = {
        name: {
            label.removeprefix("bucketline.io/provides-")
            for _, peer in peers(target, labels, "egress")
            for label in peer.get("namespaceSelector", {}).get("matchLabels", {})
            if label.startswith("bucketline.io/provides-")
        }
        for name, labels in labels_of(target).items()
    }
    stores = {"mongodb", "kafka", "telemetry"}
    assert reach["batcher"] == stores
    for name in {"ingest-api", "dedup", "processor"} | set(UNREACHED):
        assert reach[name] == stores | {"s3"}, name
    assert set(reach) == {*SERVICES, *UNREACHED}


ENDPOINTS = {
    "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS": "kafka",
    "BUCKETLINE_S3_ENDPOINT_URL": "s3",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "telemetry",
}


def port_of(endpoint: str) -> int:
    """Of a URL, or of the first of several ``host:port``."""
    url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint.partition(',')[0]}")
    return url.port or {"http": 80, "https": 443}[url.scheme]


def may_connect(target: str, labels: dict[str, str], endpoint: str, provides: str) -> bool:
    """Whether a pod may connect to what the settings name: by its namespace's label, or outside by address."""
    inside = ".svc" in endpoint
    return any(
        port_of(endpoint) in [p["port"] for p in rule["ports"]]
        for rule, peer in peers(target, labels, "egress")
        if (
            peer.get("namespaceSelector", {}).get("matchLabels", {}).get(f"bucketline.io/provides-{provides}") == "true"
            if inside
            else "ipBlock" in peer
        )
    )


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_the_ports_that_the_settings_name_are_open(target: str) -> None:
    seen = set()
    for workload, template in pods(target).items():
        values = environment(target, workload)
        for name in ENDPOINTS.keys() & values.keys():
            if (ENDPOINTS[name], workload) == ("s3", "Deployment/bucketline-batcher"):
                continue  # it has the common settings and no use for this one
            labels = template["metadata"]["labels"]
            assert may_connect(target, labels, values[name], ENDPOINTS[name]), (workload, name)
            seen.add(name)
    assert "BUCKETLINE_KAFKA_BOOTSTRAP_SERVERS" in seen


def test_a_port_that_no_policy_opens_is_noticed() -> None:
    labels = labels_of("base")["dedup"]
    assert may_connect("base", labels, "kafka.backing.svc:9093,other.backing.svc:9092", "kafka")
    assert not may_connect("base", labels, "kafka.backing.svc:9094", "kafka")
    assert not may_connect("base", labels, "http://s3.backing.svc:9001", "s3")


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_every_pod_can_look_names_up_at_the_clusters_dns(target: str) -> None:
    for name, labels in labels_of(target).items():
        dns = [
            peer
            for rule, peer in peers(target, labels, "egress")
            if {(p["protocol"], p["port"]) for p in rule["ports"]} == {("UDP", 53), ("TCP", 53)}
        ]
        assert dns == [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ], name


def test_only_the_api_accepts_connections_besides_prometheus() -> None:
    for name, labels in labels_of("overlays/production").items():
        sources = {
            value
            for _, peer in peers("overlays/production", labels, "ingress")
            for value in (
                *peer["namespaceSelector"]["matchLabels"].items(),
                *peer.get("podSelector", {}).get("matchLabels", {}).items(),
            )
        }
        scrape = {("kubernetes.io/metadata.name", "monitoring"), ("app.kubernetes.io/name", "prometheus")}
        users = {("bucketline.io/uses-api", "true")}
        expected = {"ingest-api": scrape | users} | {alone: set() for alone in UNREACHED}
        assert sources == expected.get(name, scrape), name


def test_ingress_publishes_the_api_and_not_the_metrics() -> None:
    (ingress,) = of_kind("overlays/production", "Ingress")
    (rule,) = ingress["spec"]["rules"]
    paths = [path["path"] for path in rule["http"]["paths"]]
    assert "/v1" in paths
    for hidden in ("/metrics", "/live", "/ready"):
        assert not any(hidden.startswith(path) for path in paths)
    for path in rule["http"]["paths"]:
        assert path["backend"]["service"] == {"name": "bucketline-ingest-api", "port": {"name": "http"}}


def test_gateway_publishes_the_same_paths_as_the_ingress() -> None:
    (ingress,) = of_kind(with_component("ingress"), "Ingress")
    (route,) = of_kind(with_component("gateway"), "HTTPRoute")
    published = {match["path"]["value"] for rule in route["spec"]["rules"] for match in rule["matches"]}
    assert published == {path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]}
    (service,) = of_kind("base", "Service")
    (backend,) = route["spec"]["rules"][0]["backendRefs"]
    assert (backend["name"], backend["port"]) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
