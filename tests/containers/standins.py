"""Stand-ins for the official images, made of Debian's packages and tagged with the names that the project's files use."""

import configparser
import io
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shared.infra.settings import environment
from tests.containers.engine import CACHE, run

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
BASE = "relay-ci-bookworm"
_FOLDER = Path(__file__).with_name("standins")
_LISTED = ("Identifier: Packages", f"Codename: {SUITE}", "Label: Debian")


def named_images() -> list[str]:
    """Every image that the Dockerfiles and the compose file name by default, but those that they build."""
    found = set()
    for path in (*ROOT.glob("Dockerfile.*"), ROOT / "docker-compose.yml"):
        found |= set(re.findall(r"_IMAGE(?::-|=)([a-z/-]+:[\w.-]+)", path.read_text(encoding="utf-8")))
    return sorted(found)


def target_of(image: str) -> str:
    """The stand-in's name in its Dockerfile."""
    return image.partition(":")[0].rpartition("/")[2]


def clean_root(scratch: Path) -> str:
    """Imports a minimal bookworm, which is made once and kept in the cache. Its id."""
    archive = CACHE / f"{SUITE}.tar"
    if not archive.exists():
        # In memory: dpkg syncs every file that it writes.
        made = scratch / "root"
        made.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=2g,dev,suid", "tmpfs", made)
        try:
            run("debootstrap", "--variant=minbase", "--include=ca-certificates,curl", SUITE, made, *_mirror())
            for folder in (
                "var/cache/apt/archives",
                "var/lib/apt/lists",
                "usr/share/doc",
                "usr/share/man",
                "usr/share/locale",
            ):
                shutil.rmtree(made / folder, ignore_errors=True)
                (made / folder).mkdir()
            (made / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n", encoding="utf-8")
            run("tar", "-C", made, "-cf", archive.with_suffix(".new"), ".")
        finally:
            run("umount", made)
        archive.with_suffix(".new").rename(archive)
    return archive_id(archive)


def archive_id(archive: Path) -> str:
    """The image of an archive, imported unless it is there: a new import would make every layer above it again."""
    tag = f"{BASE}:{archive.stat().st_mtime_ns}"
    if subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False).returncode:
        run("docker", "import", archive, tag)
    return tag


def _mirror() -> list[str]:
    """The mirror that this machine's apt uses; where there is none, debootstrap has a default."""
    found = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *_LISTED)
    return [uri for uri in found.split() if uri.startswith(("http://", "https://", "file:"))][:1]


def make_standins(scratch: Path, caddy: Path, livekit: Path | None) -> list[str]:
    """Builds and tags them, two at a time. The names of those that exist now."""
    base = clean_root(scratch)
    context = scratch / "standins"
    shutil.copytree(_FOLDER, context)
    shutil.copy2("/etc/ssl/certs/ca-certificates.crt", context)
    (context / "pip.conf").write_text(_pip_settings(), encoding="utf-8")
    shutil.copy2(caddy, context / "caddy")
    if livekit is not None:
        shutil.copy2(livekit, context / "livekit-server")
    images = [image for image in named_images() if livekit is not None or target_of(image) != "livekit-server"]

    def build(image: str) -> None:
        run("docker", "build", "--network", "host", "--quiet", "--build-arg", f"BASE={base}", "--target", target_of(image),
            "--tag", image, context)  # fmt: skip

    with ThreadPoolExecutor(2) as builders:
        list(builders.map(build, images))
    return images


def _pip_settings() -> str:
    """How this machine reaches its package index: its pip.conf, and what the environment says instead."""
    settings = configparser.RawConfigParser()
    settings.read("/etc/pip.conf", encoding="utf-8")
    for name in ("index-url", "extra-index-url", "trusted-host"):
        if value := environment().get("PIP_" + name.upper().replace("-", "_")):
            if not settings.has_section("global"):
                settings.add_section("global")
            settings.set("global", name, value)
    written = io.StringIO()
    settings.write(written)
    return written.getvalue()
