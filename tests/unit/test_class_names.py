"""A class name is unique in the project, so that a search for it finds one definition."""

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# benchmarks/peers holds programs that Relay is compared with. They are not part of the project.
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("shared", "services", "benchmarks", "faults", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "peers" not in path.parts
}
# Names that are still defined twice. Empty this set, do not add to it.
STILL_TWICE: set[str] = set()


def defined_twice(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """The files of each class name that is defined more than once, nested classes included."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(name)
    return {name: sorted(files) for name, files in found.items() if len(files) > 1}


def test_no_class_name_is_defined_twice() -> None:
    assert len(SOURCES) > 100
    assert {name: files for name, files in defined_twice(SOURCES).items() if name not in STILL_TWICE} == {}


def test_allowed_duplicate_class_names_are_still_duplicates() -> None:
    assert defined_twice(SOURCES).keys() >= STILL_TWICE


@pytest.mark.parametrize(
    "sources",
    [
        {"a.py": "class Gate: ...", "b.py": "class Gate: ..."},
        {"a.py": "class Gate: ...", "b.py": "def f():\n    class Gate: ..."},
        {"a.py": "class Gate: ...\nif True:\n    class Gate(int): ..."},
    ],
)
def test_duplicate_class_name_is_detected(sources: dict[str, str]) -> None:
    assert list(defined_twice(sources)) == ["Gate"]


def test_unique_class_names_are_not_reported() -> None:
    assert defined_twice({"a.py": "class Gate: ...", "b.py": "Gate = int\nclass Door: ..."}) == {}
