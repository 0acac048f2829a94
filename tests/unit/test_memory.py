"""Freed heap memory is returned to the kernel."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")

_TRIMMED = """
import sys
from shared.infra.memory import give_back_free_memory
def resident_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))
buffers = [bytearray(b"x") * 100_000 for _ in range(1000)]
del buffers[:-1]  # the last one lies above the holes
before = resident_mib()
if sys.argv[1] == "given back":
    assert give_back_free_memory()
print(before - resident_mib())
"""


def printed(program: str, how: str) -> int:
    done = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_free_heap_memory_is_returned_to_the_kernel() -> None:
    assert printed(_TRIMMED, "kept") < 10
    assert printed(_TRIMMED, "given back") > 80
