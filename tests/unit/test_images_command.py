"""The `relay` shell scripts of the images, run with a fake `python` that prints its arguments."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, arguments: list[str], directory: Path) -> tuple[int, str]:
    python = directory / "python"
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    ended = subprocess.run(
        [str(ROOT / "deploy" / script), *arguments],
        env={"PATH": f"{directory}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("arguments", [[], ["doctor"], ["projects", "create", "My app", ""], ["a\nb", "$HOME", "*"]])
def test_api_image_passes_every_argument_to_the_command_line(tmp_path: Path, arguments: list[str]) -> None:
    expected = "|".join(["-m", "services.cli.main", *arguments, ""])
    assert run("relay", arguments, tmp_path) == (0, expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["worker"], (0, "-m|services.worker.main|")),
        ([], (2, "")),
        (["doctor"], (2, "")),
        (["worker", "--processes", "2"], (2, "")),
    ],
)
def test_worker_image_runs_only_the_worker(tmp_path: Path, arguments: list[str], expected: tuple[int, str]) -> None:
    assert run("relay-worker", arguments, tmp_path) == expected
