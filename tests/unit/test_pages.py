"""Links between the pages have a target, and the files named in docs/architecture.md exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")})
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"`([\w./-]+(?:\.(?:py|html|md|json|yml|sql)|/))`")
# The folder of a name that a reader fills in, such as `services/api/<resource>/routes.py`.
PATTERN = re.compile(r"`([\w./-]+/)<")
# Folders where a name without a folder may be, in addition to the folders in its line.
FOLDERS = ("tests/unit", "tests/integration", "services/api", "services/api/usage", "shared/metering", "shared/models")


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub derives from the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Yield the links of ``page`` whose file or heading does not exist."""
    for link in LINK.findall(CODE.sub("", text)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            yield link


def missing_files(text: str) -> Iterator[str]:
    """Yield the names of files and folders in a page that do not exist in the repository."""
    known = {path.name for folder in ("services", "shared") for path in (ROOT / folder).rglob("*.py")}
    yield from (name for name in PATTERN.findall(text) if not (ROOT / name).is_dir())
    for line in re.sub(r"`(migrations/NNNN|\.rollback)\S*`", "", text).splitlines():
        folders = [*FOLDERS, *(str(Path(name).parent) for name in NAME.findall(line)), *NAME.findall(line)]
        for name in NAME.findall(line):
            if "/" in name.rstrip("/"):
                found = (ROOT / name).exists()
            else:
                found = name in known or any((ROOT / folder / name).exists() for folder in ("", "shared", *folders))
            if not found:
                yield name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    assert list(broken_links(page, page.read_text(encoding="utf-8"))) == []


def test_files_named_in_the_architecture_page_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(set(NAME.findall(text))) > 60
    assert list(missing_files(text)) == []


@pytest.mark.parametrize("link", ["nothing.md", "errors.md#no-such-heading", "#no-such-heading", "../docs/nothing"])
def test_broken_link_is_detected(link: str) -> None:
    assert list(broken_links(ROOT / "docs" / "errors.md", f"# Errors\n[a link]({link})\n")) == [link]


@pytest.mark.parametrize(
    "name", ["services/api/nothing.py", "nothing_at_all.py", "shared/nothing/", "services/nothing/<page>.py"]
)
def test_missing_file_is_detected(name: str) -> None:
    assert list(missing_files(f"Change `{name}`.")) == [name.partition("<")[0]]


def test_docs_readme_links_every_page() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(LINK.findall(text)) == set()
