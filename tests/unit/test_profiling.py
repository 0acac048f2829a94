"""`python -m benchmarks profile` assigns every stack to a layer, by words that occur in the code."""

from pathlib import Path

import pytest

from benchmarks.layers import LAYERS
from benchmarks.profiling import by_layer, read

ROOT = Path(__file__).resolve().parents[2]
OURS = [str(path.relative_to(ROOT)) for folder in ("services", "shared") for path in (ROOT / folder).rglob("*.py")]


def test_stacks_that_differ_only_in_line_numbers_are_merged() -> None:
    raw = "thread (7): MainThread;run (a.py:1);step (b.py:22) 3\nthread (7): MainThread;run (a.py:9);step (b.py:22) 4\n"
    assert read(raw) == {"thread (7): MainThread;run (a.py);step (b.py)": 7}


def test_stack_belongs_to_the_first_layer_that_matches_a_frame() -> None:
    copy = "run_forever (asyncio/base_events.py);_read (shared/ledger/fold.py);copy_records_to_table (asyncpg/connection.py)"
    merge = (
        "run_forever (asyncio/base_events.py);fold_sessions (shared/ledger/bill.py);merge (shared/metering/state.py)"
    )
    found = by_layer("fold", read(f"{copy} 5\n{merge} 2\nnobody (knows.py) 1\n"))
    assert found == {"COPY: encoding events and sessions": 5, "merging": 2, "Dramatiq and other threads": 1}


@pytest.mark.parametrize("path", LAYERS)
def test_layers_name_existing_files(path: str) -> None:
    words = [word for layer in LAYERS[path].values() for word in layer]
    named = [word for word in words if word.endswith(".py") and not word.startswith("asyncio/")]
    assert [word for word in named if not any(each.endswith(word) for each in OURS)] == []
    assert words[-1] == ""  # so that every stack belongs to a layer
