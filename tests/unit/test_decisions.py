"""Decision records: numbers, headings, length, the list in docs/architecture.md, and references."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "decisions").iterdir())}
NAME = re.compile(r"\d{4}-[a-z0-9]+(-[a-z0-9]+)*\.md")
LINK = re.compile(r"\[[Dd]ecision (\d+)\]\((?:[\w./]*/)?(\d{4})-")
PAGE_LINES, PAGE_WORDS, LINE = 60, 650, 120
REFERENCE = re.compile(r"decisions/(\d{4})\b")


def titles(records: Mapping[str, str]) -> dict[str, str]:
    """The title of each record, by file name. Fails on a wrong number, name or heading."""
    found = {}
    for place, (name, text) in enumerate(sorted(records.items()), 1):
        heading = text.splitlines()[0]
        assert NAME.fullmatch(name), f"{name}: not NNNN-what-it-is.md"
        assert int(name[:4]) == place, f"{name}: {place:04} comes next"
        assert heading.startswith(f"# {name[:4]}. "), f"{name}: the heading is {heading!r}"
        found[name] = heading.partition(". ")[2]
    return found


def shape_problems(text: str) -> list[str]:
    """What is wrong with the headings, the length or the lines of a record, except a table's."""
    found = []
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if [heading for heading in headings if heading != "Consequences"] != ["Context", "Decision", "Rejected"]:
        found.append(f"the headings are {headings}")
    if "Consequences" in headings and headings.index("Consequences") != 2:
        found.append("Consequences belong between Decision and Rejected")
    parts = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    if not all(part.strip() for part in parts):
        found.append("a heading has no text")
    if len(text.splitlines()) > PAGE_LINES or len(text.split()) > PAGE_WORDS:
        found.append(f"longer than a page: {len(text.splitlines())} lines, {len(text.split())} words")
    if long := [line for line in text.splitlines() if len(line) > LINE and not line.startswith("|")]:
        found.append(f"lines over {LINE} characters: {long}")
    return found


def dangling(text: str, numbers: set[str]) -> Iterator[str]:
    """References to a record that does not exist, and links whose text names another record."""
    yield from (number for number in REFERENCE.findall(text) if number not in numbers)
    yield from (f"{shown} is {number}" for shown, number in LINK.findall(text) if int(shown) != int(number))


def test_decision_records_are_numbered_without_gaps_and_listed() -> None:
    lines = [f"- {name[:4]} [{title}](decisions/{name})" for name, title in titles(RECORDS).items()]
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \d{4} \[.*$", architecture, re.MULTILINE)
    assert len(lines) > 10
    assert listed == lines, "docs/architecture.md: the list of decisions must be\n" + "\n".join(lines)


@pytest.mark.parametrize("name", RECORDS)
def test_decision_record_fits_one_page_with_standard_headings(name: str) -> None:
    assert shape_problems(RECORDS[name]) == []


PAGE = "# 0001. A\n\n## Context\n\na\n\n## Decision\n\nb\n\n## Rejected\n\nc\n"


@pytest.mark.parametrize(
    "text",
    [
        PAGE.replace("Rejected", "Price"),
        PAGE.replace("## Context", "**Context.**"),
        PAGE + "\n## Consequences\n\nd\n",
        PAGE.replace("b\n", "\n"),
        PAGE + "- e\n" * 60,
        PAGE + "e " * 65 + "\n",
        PAGE + "- e e e e e e e e e e e e e e e e e e e e\n" * 35,
    ],
)
def test_wrong_shape_of_a_record_is_detected(text: str) -> None:
    assert shape_problems(PAGE) == []
    assert shape_problems(text) != []


def test_every_reference_names_an_existing_record() -> None:
    folders = ("docs", "shared", "services", "tests", "benchmarks", "faults", "migrations", "deploy")
    sources = [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    suffixes = {".py", ".md", ".yml", ".sql", ".html", ".toml"}
    numbers = {name[:4] for name in RECORDS}
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in sources
        if path.suffix in suffixes
        and path != Path(__file__)
        and (found := list(dangling(path.read_text(encoding="utf-8"), numbers)))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "records",
    [
        {"0002-a.md": "# 0002. A"},
        {"0001-a.md": "# 0001. A", "0003-b.md": "# 0003. B"},
        {"0001-a.md": "# 0001. A", "0001-b.md": "# 0001. B"},
        {"0001-a.md": "# 0002. A"},
        {"1-a.md": "# 1. A"},
    ],
)
def test_wrong_record_number_is_detected(records: dict[str, str]) -> None:
    with pytest.raises(AssertionError):
        titles(records)


@pytest.mark.parametrize(
    "text", ["see docs/decisions/0099", "[decision 3](decisions/0004-x.md)", "[decision 1](../decisions/0002-x.md)"]
)
def test_dangling_reference_is_detected(text: str) -> None:
    assert list(dangling(text, {"0001", "0002", "0003", "0004"}))
