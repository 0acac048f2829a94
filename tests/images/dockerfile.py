"""Carries out a Dockerfile without Docker: its steps, in order, in a clean root directory. For the instructions that ours
use; any other is an error, so that nothing is passed over."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import msgspec

_ENV = re.compile(r"([A-Z_]+)=(\S+)")
# What docker build hands to RUN without being asked (proxies), and how this machine reaches its package index.
_HANDED_ON = re.compile(
    r"(?i)(https?|no|all)_proxy$|PIP_(INDEX_URL|EXTRA_INDEX_URL|CERT|DEFAULT_TIMEOUT|TRUSTED_HOST)$|SSL_CERT_FILE$"
)
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt")


class Image(msgspec.Struct):
    """A root directory and how to start what is in it."""

    root: Path
    environment: dict[str, str]
    workdir: str = "/"
    user: str = "0:0"
    command: list[str] = []
    healthcheck: list[str] = []
    stop_signal: str = "SIGTERM"


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments), comments gone and continued lines joined."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for line in joined if line.strip() for word, _, rest in [line.partition(" ")]]


def build(dockerfile: Path, context: Path, base: Path, scratch: Path) -> Image:
    """Every stage begins with a copy of ``base``, whatever FROM names. Raises ``CalledProcessError`` as docker build would
    stop."""
    stages: dict[str, Image] = {}
    image: Image | None = None
    for word, rest in instructions(dockerfile):
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            image = stages[name] = Image(
                scratch / name, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
            )
            scratch.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", str(base), str(image.root)], check=True)
            continue
        assert image is not None, "a Dockerfile begins with FROM"
        print(f"    {word} {rest[:110]}", flush=True)
        _carry_out(word, rest, image, stages, context)
    assert image is not None
    return image


def _carry_out(word: str, rest: str, image: Image, stages: dict[str, Image], context: Path) -> None:
    match word:
        case "ENV":
            for name, value in _ENV.findall(rest):
                image.environment[name] = value.replace("$PATH", image.environment["PATH"])
        case "COPY":
            _copy(shlex.split(rest), image, stages, context)
        case "RUN":
            _run(rest, image)
        case "WORKDIR":
            image.workdir = rest
            (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "USER":
            image.user = rest
        case "STOPSIGNAL":
            image.stop_signal = rest
        case "HEALTHCHECK":
            image.healthcheck = json.loads(rest.partition("CMD ")[2])
        case "CMD":
            image.command = json.loads(rest)
        case "EXPOSE":
            pass
        case _:
            raise NotImplementedError(f"{word} {rest}")


def _copy(words: list[str], image: Image, stages: dict[str, Image], context: Path) -> None:
    source_stage = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
    source, target = (word for word in words if not word.startswith("--"))
    destination = image.root / os.path.join(image.workdir, target).lstrip("/")
    if source_stage is not None:
        shutil.copytree(stages[source_stage].root / source.lstrip("/"), destination, symlinks=True, dirs_exist_ok=True)
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    if not _is_sent(source, context):
        raise FileNotFoundError(f"COPY {source}: .dockerignore keeps it from the builder")
    if (context / source).is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(context / source, destination, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copy2(context / source, destination)


def _is_sent(source: str, context: Path) -> bool:
    """By .dockerignore, in the form ours has: everything is left out but what a ``!`` line names."""
    sent = False
    for line in (context / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            kept = pattern.startswith("!")
            name = pattern.removeprefix("!")
            if fnmatch.fnmatch(source, name) or source.startswith(name + "/"):
                sent = kept
    return sent


def _run(command: str, image: Image) -> None:
    files = [Path(name) for name in _NETWORK_FILES if Path(name).exists()]
    for file in files:
        target = image.root / str(file).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    handed_on = {"PIP_QUIET": "1", **{name: value for name, value in os.environ.items() if _HANDED_ON.match(name)}}
    inside = f"cd {shlex.quote(image.workdir)} && {command}"
    try:
        subprocess.run(
            ["chroot", str(image.root), "/bin/sh", "-c", inside], env={**handed_on, **image.environment}, check=True
        )
    finally:
        for file in files[:2]:
            (image.root / str(file).lstrip("/")).unlink(missing_ok=True)
