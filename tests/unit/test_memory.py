"""What is free again goes back to the kernel."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")

_MAPPED = """
import ctypes, sys
from shared.memory import map_large_buffers
class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Usage
if sys.argv[1] == "given back":
    assert map_large_buffers()
bytes(20_000_000)  # its end raises the limit that glibc sets itself
before = libc.mallinfo2().hblks
buffer = bytes(2_000_000)
print(libc.mallinfo2().hblks - before)
"""

_TRIMMED = """
import sys
from shared.memory import give_back_free_memory
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


@pytest.mark.parametrize(("how", "mapped"), [("kept", 0), ("given back", 1)])
def test_a_large_buffer_is_its_own_mapping(how: str, mapped: int) -> None:
    assert printed(_MAPPED, how) == mapped


def test_holes_in_the_heap_go_back() -> None:
    assert printed(_TRIMMED, "kept") < 10
    assert printed(_TRIMMED, "given back") > 80
