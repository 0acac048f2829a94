"""How the C library keeps memory that is free again."""

import ctypes
import sys


def give_back_free_memory() -> bool:
    """Gives the kernel every free page of the heap, in some milliseconds. Between the buffers of batches glibc keeps holes into
    which the next, a little larger, does not fit: the worker grew by ten MiB and more in an hour, all of it free memory. (Told
    to map large buffers one by one, it kept nothing, and mapping and clearing them anew for each batch was a tenth of the
    fold.) False where there is no glibc, or nothing to give."""
    if sys.platform != "linux":
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
