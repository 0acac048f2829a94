"""A Docker engine for one run in a separate network namespace, from Debian's packages. Needs root.

The packages are unpacked, not installed, because an installed engine starts a daemon for the whole machine. The cache keeps
the layers between runs. After ``Namespace.close`` nothing in the namespace can reach other machines.
"""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.infra.settings import environment, inherited_environment

CACHE = Path(environment().get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "relay-ci" / "containers"
PACKAGES = (
    "runc", "iptables", "iproute2", "slirp4netns", "debootstrap", "docker-compose", "libdevmapper1.02.1", "ca-certificates",
)  # fmt: skip
_ENGINE_PACKAGES = ("docker.io", "containerd", "tini")
_LARGEST_CACHE_BYTES = 8 * 2**30
_READY_WITHIN_S = 60.0
_CLONE_NEWNET = 0x40000000


def run(*command: str | Path, **options: object) -> str:
    """Run a command and return its output. Prints its error output and raises ``CalledProcessError``."""
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]  # options of subprocess.run
    if ended.returncode:
        print(ended.stdout[-4000:], ended.stderr[-8000:], sep="\n", flush=True)
        ended.check_returncode()
    return str(ended.stdout)


def install_packages() -> None:
    """Install the missing Debian packages and unpack those of the engine."""
    asked = [["dpkg-query", "-W", "-f", "${Status}", name] for name in PACKAGES]
    found = [subprocess.run(query, capture_output=True, text=True, check=False).stdout for query in asked]
    missing = [name for name, status in zip(PACKAGES, found, strict=True) if "ok installed" not in status]
    engine = CACHE / "engine"
    # debootstrap also takes its mirror from the package lists.
    if missing or not engine.exists() or not list(Path("/var/lib/apt/lists").glob("*_Packages*")):
        run("apt-get", "update", "-qq")
    if missing:
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    if not engine.exists():
        scratch = CACHE / "engine.new"
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "packages").mkdir(parents=True)
        run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *_ENGINE_PACKAGES, cwd=scratch / "packages")
        for package in (scratch / "packages").glob("*.deb"):
            run("dpkg", "-x", package, scratch)
        shutil.rmtree(scratch / "packages")
        scratch.rename(engine)


class Namespace:
    """A network namespace that this process enters, with outside access (slirp4netns) until ``close``."""

    def __init__(self, scratch: Path) -> None:
        self._name = f"relay-{os.getpid()}"
        self._scratch = scratch
        self._outside: subprocess.Popen[bytes] | None = None

    def enter(self) -> None:
        """Move this process and its later children into the namespace. The process must have one thread."""
        run("ip", "netns", "add", self._name)
        run("ip", "-n", self._name, "link", "set", "lo", "up")
        path = f"/run/netns/{self._name}"
        command = [
            "slirp4netns",
            "--configure",
            "--mtu=1400",
            "--disable-host-loopback",
            "--netns-type=path",
            path,
            "tap0",
        ]
        with (self._scratch / "slirp.log").open("wb") as log:
            self._outside = subprocess.Popen(command, stdout=log, stderr=log)
        # Not `ip netns exec`, which hides the control groups. Python has os.setns from 3.12 on.
        with Path(path).open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def close(self) -> None:
        """Cut the access to other machines."""
        if self._outside is not None:
            self._outside.terminate()
            self._outside.wait()
            self._outside = None

    def remove(self) -> None:
        self.close()
        subprocess.run(["ip", "netns", "del", self._name], capture_output=True, check=False)


@contextmanager
def docker(scratch: Path) -> Iterator[None]:
    """Run the engine, with its client in PATH. ``scratch`` needs a short path, because it holds sockets."""
    layers = CACHE / "docker"
    if layers.exists() and _size(layers) > _LARGEST_CACHE_BYTES:
        _remove_layers(layers)
    shutil.rmtree(layers / "network", ignore_errors=True)  # networks of an earlier namespace
    programs = CACHE / "engine" / "usr"
    settings = {
        "PATH": f"{programs / 'bin'}:{programs / 'sbin'}:{environment()['PATH']}",
        "DOCKER_HOST": f"unix://{scratch}/docker.sock",
        "DOCKER_CONFIG": str(scratch / "config"),
        "DOCKER_BUILDKIT": "0",  # the builder of Debian's version needs control groups that not every machine has
        "COMPOSE_PROJECT_NAME": "relay-ci",
    }
    os.environ.update(settings)
    for name in ("COMPOSE_FILE", "COMPOSE_ENV_FILES", "COMPOSE_PROFILES"):
        os.environ.pop(name, None)
    with (scratch / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                "dockerd", "--data-root", str(layers), "--exec-root", str(scratch / "exec"), "--pidfile", str(scratch / "pid"),
                "--host", settings["DOCKER_HOST"], "--exec-opt", "native.cgroupdriver=cgroupfs", "--oom-score-adjust", "0",
            ],
            stdout=log, stderr=log, env=inherited_environment({}), start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for(daemon, scratch / "dockerd.log")
        remove_containers()
        yield
    finally:
        remove_containers()
        # Remove layers of older commits. Layers that a run of the last three days used stay.
        subprocess.run(
            ["docker", "image", "prune", "--force", "--filter", "until=72h"], capture_output=True, check=False
        )
        daemon.terminate()
        daemon.wait(60)
        for mount in (scratch / "exec" / "netns").glob("*"):
            subprocess.run(["umount", str(mount)], capture_output=True, check=False)


def remove_containers() -> None:
    """Remove everything of a run except its images."""
    containers = subprocess.run(["docker", "ps", "--all", "--quiet"], capture_output=True, text=True, check=False)
    if names := containers.stdout.split():
        subprocess.run(["docker", "rm", "--force", "--volumes", *names], capture_output=True, check=False)
    for kind in ("volume", "network"):
        subprocess.run(["docker", kind, "prune", "--force"], capture_output=True, check=False)


def _wait_for(daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the engine did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


def _size(folder: Path) -> int:
    return int(run("du", "--summarize", "--bytes", "--one-file-system", folder).split()[0])


def _remove_layers(layers: Path) -> None:
    shutil.rmtree(layers, ignore_errors=True)
