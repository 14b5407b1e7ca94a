"""Waiting until no packet is on its way that met rules which are not there any more.

A packet walks all tables of a hook in one go, and a commit changes one table. If mangle takes over what nat lets go, a
packet may have passed mangle before the first commit and come to nat behind the second: nobody captured it. Netfilter
walks its hooks under rcu_read_lock (nf_hook in linux/netfilter.h), so between two such commits we wait for an RCU
grace period, which is what membarrier(2) does with MEMBARRIER_CMD_GLOBAL (kernel/sched/membarrier.c).
"""

from __future__ import annotations

import os
import time

from capture.kernel.seam import primitive

MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "loongarch64": 283, "ppc64le": 365, "s390x": 356}
"""The number of the system call by machine (asm/unistd.h). Python has no name for it."""
CMD_GLOBAL = 1
WITHOUT_IT = 0.05
"""Seconds to wait where the system call is not permitted or not known: several times a usual grace period."""


@primitive
def let_packets_pass() -> None:
    """Return when every packet that was in netfilter when this was called has left it."""
    import ctypes

    number = MEMBARRIER.get(os.uname().machine)
    libc = ctypes.CDLL(None, use_errno=True)
    if number is None or libc.syscall(number, CMD_GLOBAL, 0, 0):
        time.sleep(WITHOUT_IT)
