"""What keeps us from the rules of a namespace: a capability, a user namespace, or who else may forbid it.

A denial says no more than EPERM. To add a capability that is effective already helps nobody: then it is SELinux,
AppArmor or a seccomp filter that forbids, and each has its own place to be permitted.
"""

from __future__ import annotations

import os

from capture.errors import BackendUnusable
from capture.kernel.files import read_text

NET_ADMIN, NET_RAW, SYS_ADMIN = 12, 13, 21
"""linux/capability.h."""
NAMES = {NET_ADMIN: "CAP_NET_ADMIN", NET_RAW: "CAP_NET_RAW", SYS_ADMIN: "CAP_SYS_ADMIN"}
STATUS = "/proc/self/status"
LABEL = "/proc/self/attr/current"
SECCOMP_FILTER = "2"
"""SECCOMP_MODE_FILTER of linux/seccomp.h, as proc_pid_status(5) tells it."""
OUTSIDE = "run in the user namespace that owns the network namespace (nsenter --user --net --target PID)"
FROM_OUTSIDE = (
    "the kernel refuses an owner match from outside the user namespace that owns the network namespace: run in it "
    "(nsenter --user --net --target PID)"
)


def effective(*numbers: int) -> bool | None:
    """Whether all of these capabilities are effective in this process; None if /proc does not tell."""
    mask = status_line("CapEff")
    return all(int(mask, 16) >> number & 1 for number in numbers) if mask else None


def status_line(field: str) -> str:
    """A field of /proc/self/status; empty if it cannot be read."""
    try:
        lines = read_text(STATUS).split("\n")
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:")), "")


def confined_by() -> list[str]:
    """What may forbid what our capabilities permit, as far as this process can see."""
    found = []
    if status_line("Seccomp") == SECCOMP_FILTER:
        found.append("a seccomp filter")
    try:
        label = read_text(LABEL).strip("\0\n ")
    except OSError:
        label = ""
    if label.count(":") >= 2:
        found.append(f"SELinux, as {label}")
    elif label and label != "unconfined":
        found.append(f"the AppArmor profile {label}")
    return found


def denied_hint() -> str:
    """What helps where the kernel denies us the rules of this namespace."""
    if effective(NET_ADMIN):
        from capture.kernel.userns import owner_of_the_namespace

        if owner_of_the_namespace() is False:
            return f"CAP_NET_ADMIN is effective here, but another user namespace owns the network namespace: {OUTSIDE}"
        seen = confined_by()
        who = f"; at work here: {', '.join(seen)}" if seen else ""
        return (
            f"CAP_NET_ADMIN is effective, so it is SELinux, AppArmor or a seccomp filter that forbids it{who}. Permit "
            "it there (in a pod, seLinuxOptions, appArmorProfile and seccompProfile of securityContext); the node's "
            "audit log says what was denied"
        )
    return (
        "this takes CAP_NET_ADMIN (with the legacy backend also CAP_NET_RAW) in the user namespace that owns the "
        f"network namespace: {how_to_add('NET_ADMIN')}"
    )


def how_to_add(name: str) -> str:
    """How this process would have a capability that it lacks."""
    in_pod = f"in a pod, securityContext.capabilities.add: [{name}]"
    return in_pod if not os.geteuid() else f"{in_pod}, in effect for runAsUser: 0 only; on a host, run as root"


def legacy_unseen_hint() -> str:
    """What helps where we may not see which legacy tables there are: only the root of a namespace's owner may."""
    if os.geteuid():
        return "run as root (in a pod, securityContext.runAsUser: 0), or with the nft backend"
    return f"{OUTSIDE}, or with the nft backend"


def not_permitted() -> BackendUnusable:
    return BackendUnusable(
        "not permitted to read or change the rules of this network namespace; nothing was touched",
        hint=denied_hint(),
    )
