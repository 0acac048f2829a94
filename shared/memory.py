"""How the C library keeps memory that is free again."""

import ctypes
import sys
from collections.abc import Callable

_M_MMAP_THRESHOLD = -3
# Above what a batch of ordinary events needs (asyncpg sends a copy in pieces of 512 KiB): at 64 KiB, the kernel mapping and
# clearing these buffers anew for each batch was a tenth of the fold. Below those of a batch of large events, of several MiB.
_LARGE = 1024 * 1024


def map_large_buffers() -> bool:
    """Makes glibc take buffers of 1 MiB and more from the kernel and give them back when they are free. Left to itself it
    raises that limit to the largest one it has seen (up to 32 MiB) and carves all of them out of one heap. False where there
    is no glibc."""
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _LARGE) == 1


def give_back_free_memory() -> bool:
    """Gives the kernel every free page of the heap, in some milliseconds. Between the buffers of batches glibc keeps holes into
    which the next, a little larger, does not fit: the worker grew by ten MiB and more in an hour, all of it free memory. False
    where there is no glibc, or nothing to give."""
    trim = _of_glibc("malloc_trim")
    return trim is not None and trim(0) == 1


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
