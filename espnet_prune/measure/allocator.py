"""Keep freed memory, as a server would.

glibc hands large freed blocks back to the system, and every layer of the next utterance
faults its activations in again, page by page: up to two thirds of the time of a wide
convolution, and a cliff between sizes that fit below its thresholds and those that
do not.
"""

import ctypes
import platform

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_LARGEST = 2**30


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; False where malloc is not glibc's."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    trim = libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    return bool(trim and libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST))
