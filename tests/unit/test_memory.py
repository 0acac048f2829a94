"""Large buffers come from the kernel and go back to it, whatever was allocated before them."""

import subprocess
import sys

import pytest

_MAPPED = """
import ctypes, sys
from shared.memory import give_back_large_buffers
class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Usage
if sys.argv[1] == "given back":
    assert give_back_large_buffers()
bytes(20_000_000)  # its end raises the limit that glibc sets itself
before = libc.mallinfo2().hblks
buffer = bytes(2_000_000)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize(("how", "mapped"), [("kept", "0"), ("given back", "1")])
def test_a_large_buffer_is_its_own_mapping(how: str, mapped: str) -> None:
    command = [sys.executable, "-c", _MAPPED, how]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == mapped
