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
_KEEPING = 2**31 - 1, 2**30  # never trimmed; none mapped on its own below 1 GiB
# Where glibc's own adjustment ends, which cannot be switched on again.
_USUAL = 2**26, 2**25


def keep_freed_memory(keep: bool = True) -> bool:
    """Let this process keep what it frees, or do as usual again.

    Returns:
        whether it could be set; False where malloc is not glibc's.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc, (trim, mmap) = ctypes.CDLL(None), _KEEPING if keep else _USUAL
    done = libc.mallopt(_M_TRIM_THRESHOLD, trim), libc.mallopt(_M_MMAP_THRESHOLD, mmap)
    return all(done)
