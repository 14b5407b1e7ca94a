"""A pod and the world outside it, as network namespaces of this host: real interfaces, users and connections."""

from tests.rig.namespace import Namespace, entered
from tests.rig.pod import ADDRESSES, APP, OUTSIDE, PROXY, Pod, Result
from tests.rig.traffic import Call, Landing, Listener, Traffic

__all__ = [
    "ADDRESSES",
    "APP",
    "OUTSIDE",
    "PROXY",
    "Call",
    "Landing",
    "Listener",
    "Namespace",
    "Pod",
    "Result",
    "Traffic",
    "entered",
]
