"""What a broker says of itself and of us: which release its protocol is of, and what this user may do.

aiokafka has no call for either; each is a request or two of Kafka's protocol, and changes nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError, IncompatibleBrokerVersion
from aiokafka.protocol.admin import ApiVersionRequest, DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from bucketline.kafka.client_config import client_options
from bucketline.settings import KafkaSettings

READ, WRITE = 3, 4
"""Numbers of Kafka's operations, and their bits in what it says is allowed."""

NOT_TOLD = -(2**31)

_FIRST_IN = {60: "2.8", 65: "3.0", 74: "3.7", 80: "3.9", 76: "4.1"}
"""A request that came with each release, oldest first."""


@dataclass(frozen=True)
class Broker:
    """``release`` of Kafka, at least; None is one from before 2.8. ``allowed``: operations on each topic that is seen,
    None where the broker does not tell."""

    release: str | None
    allowed: Mapping[str, frozenset[int] | None]


async def ask(settings: KafkaSettings, topics: Collection[str]) -> Broker:
    """Asks one broker. Raises aiokafka's ``KafkaError`` when it cannot be reached."""
    client = AIOKafkaClient(**client_options(settings), request_timeout_ms=settings.request_timeout_ms)
    await client.bootstrap()
    try:
        node = client.get_random_node()
        newest = {key: most for key, _, most in (await client.send(node, ApiVersionRequest())).api_versions}
        allowed: dict[str, frozenset[int] | None] = dict.fromkeys(topics)
        if newest.get(_RightsAsked.API_KEY, 0) >= _RightsAsked.API_VERSION:
            answer = await client.send(node, _Rights(sorted(topics)))
            allowed = {topic: operations(bits) for _, topic, _, _, bits in answer.topics}
        return Broker(release_of(newest), allowed)
    finally:
        await client.close()


async def ask_of_groups(settings: KafkaSettings, names: Collection[str]) -> Mapping[str, frozenset[int] | None]:
    """What this user may do in consumer groups, which need not exist; None where the broker does not tell."""
    allowed: dict[str, frozenset[int] | None] = dict.fromkeys(names)
    client = AIOKafkaClient(**client_options(settings), request_timeout_ms=settings.request_timeout_ms)
    await client.bootstrap()
    try:
        for name in names:
            try:
                node = await client.coordinator_lookup(CoordinationType.GROUP, name)
                answer = await client.send(node, _GroupRights(name))
            except GroupAuthorizationFailedError:
                allowed[name] = frozenset()
            except (GroupCoordinatorNotAvailableError, IncompatibleBrokerVersion, NotImplementedError):
                continue
            else:
                denied = answer.groups[0][0] == GroupAuthorizationFailedError.errno
                allowed[name] = frozenset() if denied else operations(answer.groups[0][-1])
    finally:
        await client.close()
    return allowed


def release_of(known: Collection[int]) -> str | None:
    """The newest release all of whose requests, and those of the ones before it, are known."""
    found = None
    for key, release in _FIRST_IN.items():
        if key not in known:
            break
        found = release
    return found


def operations(bits: int) -> frozenset[int] | None:
    return None if bits == NOT_TOLD else frozenset(number for number in range(31) if bits >> number & 1)


class _RightsAnswer(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node", Int32), ("host", String()), ("port", Int32), ("rack", String()))),
        ("cluster", String()),
        ("controller", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String()),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _RightsAsked(RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _RightsAnswer
    SCHEMA = Schema(
        ("topics", Array(String())), ("create", Boolean), ("of_the_cluster", Boolean), ("of_the_topics", Boolean)
    )


class _Rights(Request[_RightsAsked]):  # type: ignore[misc]  # as above
    """Kafka's Metadata request, which since its version 8 tells what is allowed."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_RightsAsked]) -> _RightsAsked:
        return request_struct_class(self._topics, False, False, True)


class _GroupAsked(DescribeGroupsRequest_v3):  # type: ignore[misc]  # as above
    """aiokafka's own reads the answer as one of version 2, and stops before the rights."""

    RESPONSE_TYPE = DescribeGroupsResponse_v3


class _GroupRights(Request[_GroupAsked]):  # type: ignore[misc]  # as above
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_GroupAsked]) -> _GroupAsked:
        return request_struct_class([self._group], True)
