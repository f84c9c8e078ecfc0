"""Kafka's objects say what the table of topics says: sizes, rights of each service, and what scales whom."""

import pytest
from tests.deploy.rendering import OVERLAYS, containers, named, of_kind, pods

from bucketline.events.topics import DEAD_LETTER_RETENTION_MS, TOPICS, dead_letter_topics
from bucketline.kafka.admin import wanted
from bucketline.settings import SERVICES, KafkaSettings, ServiceName

PRODUCTION = "overlays/production"
WITHOUT_KAFKA = "CronJob/bucketline-gc"
PREFIX = KafkaSettings().topic_prefix
GROUPS = KafkaSettings().group_prefix

Right = tuple[str, str, str]


def rights(user: str) -> set[Right]:
    """(kind, name, operation) of everything that a user may do."""
    spec = named(PRODUCTION, "KafkaUser", user)["spec"]
    return {
        (acl["resource"]["type"], acl["resource"]["name"], operation)
        for acl in spec["authorization"]["acls"]
        for operation in acl["operations"]
        if acl["resource"]["patternType"] == "literal" and acl.get("type", "allow") == "allow"
    }


def test_every_topic_that_the_services_expect_is_declared_as_they_expect_it() -> None:
    declared = {
        m["metadata"]["name"]: (m["spec"]["partitions"], int(m["spec"]["config"]["retention.ms"]))
        for m in of_kind(PRODUCTION, "KafkaTopic")
    }
    assert declared == {name: (partitions, kept) for name, partitions, kept in wanted(KafkaSettings())}


def test_an_acknowledged_record_survives_a_broker() -> None:
    for topic in of_kind(PRODUCTION, "KafkaTopic"):
        assert topic["spec"]["replicas"] == 3
        assert topic["spec"]["config"]["min.insync.replicas"] == 2


def test_no_two_nodes_of_kafka_share_a_machine() -> None:
    (pool,) = of_kind("kafka", "KafkaNodePool")
    pod = pool["spec"]["template"]["pod"]
    (rule,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (spread,) = pod["topologySpreadConstraints"]
    # the labels that Strimzi gives to the pods of a pool
    labels = {**pool["metadata"]["labels"], "strimzi.io/pool-name": pool["metadata"]["name"]}
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    for selector in (rule["labelSelector"], spread["labelSelector"]):
        assert selector == {"matchLabels": labels}


def test_dead_letter_topic_allows_larger_records_and_is_kept_longer() -> None:
    for _, _, name in dead_letter_topics():
        config = named(PRODUCTION, "KafkaTopic", PREFIX + name)["spec"]["config"]
        assert config["max.message.bytes"] > 1024 * 1024 + 16 * 1024
        assert config["retention.ms"] == DEAD_LETTER_RETENTION_MS > max(topic.retention_ms for topic in TOPICS)


@pytest.mark.parametrize("service", SERVICES)
def test_kafka_user_has_exactly_the_rights_in_the_topic_table(service: ServiceName) -> None:
    reads = {topic for topic in TOPICS if service in topic.consumers}
    # The routes of the API list and replay the dead letters of all services, and show their lag.
    handles_dead_letters = service == "ingest-api"
    writes = {topic for topic in TOPICS if service in topic.producers or handles_dead_letters}
    expected: set[Right] = set()
    for topic in reads:
        expected |= {("topic", PREFIX + topic.name, operation) for operation in ("Read", "Describe")}
        expected |= {("group", GROUPS + topic.group(service), operation) for operation in ("Read", "Describe")}
        expected |= {
            ("topic", PREFIX + topic.dead_letter_topic(service), operation) for operation in ("Write", "Describe")
        }
    for topic in writes:
        expected |= {("topic", PREFIX + topic.name, operation) for operation in ("Write", "Describe")}
    if handles_dead_letters:
        for _, _, name in dead_letter_topics():
            expected |= {("topic", PREFIX + name, operation) for operation in ("Read", "Describe")}
        expected |= {("group", GROUPS + topic.group(one), "Describe") for topic in TOPICS for one in topic.consumers}
    assert rights(f"bucketline-{service}") == expected


def test_no_user_has_wide_rights_but_those_of_operators_and_subscribers() -> None:
    for user in of_kind(PRODUCTION, "KafkaUser"):
        patterns = {
            (acl["resource"]["patternType"], acl["resource"]["name"]) for acl in user["spec"]["authorization"]["acls"]
        }
        wide = {name for pattern, name in patterns if pattern != "literal" or name == "*"}
        allowed = {"bucketline-operations": {PREFIX, GROUPS}, "bucketline-subscriber": {"subscriber-"}}
        assert wide == allowed.get(user["metadata"]["name"], set())


def test_subscribers_may_read_the_public_topics_and_nothing_else() -> None:
    public = {PREFIX + topic.name for topic in TOPICS if topic.public}
    assert rights("bucketline-subscriber") == {
        ("topic", name, operation) for name in public for operation in ("Read", "Describe")
    }
    assert PREFIX + "batches.work.v1" not in public


def test_each_workload_signs_in_as_its_own_user() -> None:
    expected = {f"Deployment/bucketline-{service}": f"bucketline-{service}" for service in SERVICES}
    expected["Deployment/bucketline-toolbox"] = "bucketline-operations"
    for workload, user in expected.items():
        (container,) = containers(pods(PRODUCTION)[workload])
        env = {variable["name"]: variable for variable in container["env"]}
        assert env["BUCKETLINE_KAFKA_SASL_USERNAME"] == {"name": "BUCKETLINE_KAFKA_SASL_USERNAME", "value": user}
        password = env["BUCKETLINE_KAFKA_SASL_PASSWORD"]["valueFrom"]["secretKeyRef"]
        assert password == {"name": user, "key": "password"}
        assert named(PRODUCTION, "KafkaUser", user)["spec"]["authentication"]["type"] == "scram-sha-512"
    assert set(pods(PRODUCTION)) - set(expected) == {WITHOUT_KAFKA}


@pytest.mark.parametrize("target", ["base", *OVERLAYS])
def test_workloads_without_kafka_get_no_kafka_credentials(target: str) -> None:
    template = pods(target)[WITHOUT_KAFKA]
    (container,) = containers(template)
    assert not [variable for variable in container["env"] if "KAFKA" in variable["name"]]
    assert not [volume for volume in template["spec"]["volumes"] if "secret" in volume]


def test_consumers_scale_on_the_lag_of_every_topic_that_they_read() -> None:
    scaled = {m["spec"]["scaleTargetRef"]["name"]: m["spec"] for m in of_kind(PRODUCTION, "ScaledObject")}
    assert set(scaled) == {"bucketline-dedup", "bucketline-batcher", "bucketline-processor"}
    for name, spec in scaled.items():
        service = name.removeprefix("bucketline-")
        lags = [trigger["metadata"] for trigger in spec["triggers"] if trigger["type"] == "kafka"]
        watched = {(lag["topic"], lag["consumerGroup"]) for lag in lags}
        read = [topic for topic in TOPICS if service in topic.consumers]
        assert watched == {(PREFIX + topic.name, GROUPS + topic.group(service)) for topic in read}
        assert spec["minReplicaCount"] >= 1  # sweepers must run
        assert spec["maxReplicaCount"] <= max(topic.partitions for topic in read)
        assert spec["cooldownPeriod"] >= 300
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 300
        assert all(int(lag["lagThreshold"]) > 0 for lag in lags)


def test_keda_finds_the_broker_and_the_credentials_in_the_pod_that_it_scales() -> None:
    (auth,) = of_kind(PRODUCTION, "TriggerAuthentication")
    for scaled in of_kind(PRODUCTION, "ScaledObject"):
        spec = scaled["spec"]
        (container,) = containers(pods(PRODUCTION)[f"Deployment/{spec['scaleTargetRef']['name']}"])
        assert container["name"] == spec["scaleTargetRef"]["envSourceContainerName"]
        maps = {ref["configMapRef"]["name"] for ref in container["envFrom"]}
        given = {variable["name"] for variable in container["env"]}
        for name in maps:
            given |= set(named(PRODUCTION, "ConfigMap", name)["data"])
        for trigger in [trigger for trigger in spec["triggers"] if trigger["type"] == "kafka"]:
            assert trigger["metadata"]["bootstrapServersFromEnv"] in given
            assert trigger["authenticationRef"]["name"] == auth["metadata"]["name"]
        assert {entry["name"] for entry in auth["spec"]["env"]} <= given


@pytest.mark.parametrize(
    "name", ["bucketline-ingest-api", "bucketline-dedup", "bucketline-batcher", "bucketline-processor"]
)
def test_a_scaled_deployment_states_no_number_of_its_own(name: str) -> None:
    assert "replicas" not in named(PRODUCTION, "Deployment", name)["spec"]
