"""The calls of test_livekit.py, with the event streams on a Redis Cluster of three nodes."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.infra.redis import event_stream
from tests.e2e.test_livekit import test_billed_minutes_match_the_clocks_of_the_participants
from tests.redis_cluster import Node, redis_cluster

__all__ = ["test_billed_minutes_match_the_clocks_of_the_participants"]
pytestmark = pytest.mark.livekit


@pytest.fixture
def streams_url(livekit_program: str) -> Iterator[str]:
    """Override the fixture of conftest.py. After the test, check that the events went through the cluster."""
    assert livekit_program  # without livekit-server there are no calls and no events
    directory = Path(tempfile.mkdtemp(prefix="relay-test-"))
    try:
        with redis_cluster(directory) as cluster:
            yield cluster.url
            assert any(_has_carried_events(node) for node in cluster.nodes)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _has_carried_events(node: Node) -> bool:
    """Whether a stream of this node ever held an event. An empty stream keeps its last entry id."""
    keys = [event_stream.stream_key(partition) for partition in range(event_stream.PARTITIONS)]
    mine = set(node.client.keys("*"))
    return any(node.client.xinfo_stream(key)["last-generated-id"] != b"0-0" for key in keys if key.encode() in mine)
