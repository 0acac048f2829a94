"""Stand-ins for the official images, made of Debian's packages and tagged with the official names."""

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
    """Return the default images of the Dockerfiles and the compose file, except those that they build."""
    found = set()
    for path in (*ROOT.glob("Dockerfile.*"), ROOT / "docker-compose.yml"):
        found |= set(re.findall(r"_IMAGE(?::-|=)([a-z/-]+:[\w.-]+)", path.read_text(encoding="utf-8")))
    return sorted(found)


def target_of(image: str) -> str:
    """Return the name of the stand-in in its Dockerfile."""
    return image.partition(":")[0].rpartition("/")[2]


def clean_root(scratch: Path) -> str:
    """Import a minimal bookworm and return its tag. It is made once and kept in the cache."""
    archive = CACHE / f"{SUITE}.tar"
    if not archive.exists():
        # In memory, because dpkg syncs every file that it writes.
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
    """Return the tag of the image of an archive.

    It is imported once, because a new import would invalidate every layer above it.
    """
    tag = f"{BASE}:{archive.stat().st_mtime_ns}"
    if subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False).returncode:
        run("docker", "import", archive, tag)
    return tag


def _mirror() -> list[str]:
    """Return the mirror of this machine's apt. Without one, debootstrap uses its default."""
    found = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *_LISTED)
    return [uri for uri in found.split() if uri.startswith(("http://", "https://", "file:"))][:1]


def make_standins(scratch: Path, caddy: Path, livekit: Path | None) -> list[str]:
    """Build and tag the stand-ins, two at a time. Returns their names."""
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
    """Return the pip.conf of this machine, overridden by the environment."""
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
