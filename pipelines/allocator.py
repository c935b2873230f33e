"""Keeping freed memory in the process: for programs that draw or train; a library should not set this.

glibc takes a large buffer from the system and gives it back when it is freed, so that the next one of its size is
mapped and zeroed page by page again. The activations of a U-Net at 32 rows are above that limit, those at 16 are not:
a guided step of 16 images in one call then costs 16,000 page faults, and more time than two calls.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory for reuse, up to the peak of this process; whether the C library supports it (glibc does)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
