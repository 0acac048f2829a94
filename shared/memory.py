"""How the C library keeps memory that is free again."""

import ctypes
import sys

_M_MMAP_THRESHOLD = -3
# Above what a batch of ordinary events needs (asyncpg sends a copy in pieces of 512 KiB): at 64 KiB, the kernel mapping and
# clearing these buffers anew for each batch was a tenth of the fold. Below those of a batch of large events, of several MiB.
_LARGE = 1024 * 1024


def give_back_large_buffers() -> bool:
    """Makes glibc take buffers of 1 MiB and more from the kernel and give them back when they are free. Left to itself it
    raises that limit to the largest one it has seen (up to 32 MiB) and carves all of them out of one heap, where the next
    batch, a little larger, fits into no hole: the worker grew by some MiB an hour, all of it free memory. False where there
    is no glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _LARGE) == 1
