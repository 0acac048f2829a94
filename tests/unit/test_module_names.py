"""Modules named in text exist: programs of subprocesses, `python -m`, patches.

No import fails there when a module moves.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("shared", "services", "tests", "benchmarks", "faults")
_NAMED = re.compile(
    rf"(?<!\w)(?:from|import|-m|-m\",)\s+\"?((?:{'|'.join(FOLDERS)})(?:\.\w+)+)|setattr\(\s*\"([\w.]+)\""
)


def named_in(text: str) -> set[str]:
    return {name or patched for name, patched in _NAMED.findall(text)}


def exists(name: str) -> bool:
    """Whether the name is a module, or something inside a module."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (ROOT.joinpath(*parts[:length]).with_suffix(".py")).is_file():
            return True
        if ROOT.joinpath(*parts[:length]).is_dir():
            return length == len(parts)
    return find_spec(parts[0]) is not None


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_named_in_text_exists(folder: str) -> None:
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != "test_boundaries.py"  # its counter-examples name modules that do not exist
        for name in named_in(path.read_text(encoding="utf-8"))
        if not exists(name)
    }
    assert missing == set()


def test_moved_module_is_detected() -> None:
    text = 'run("-c", "from shared.' + 'memory import x")\nrun("-m", "services.' + 'nothing.main")\n'
    assert {name for name in named_in(text) if not exists(name)} == {"shared.memory", "services.nothing.main"}
