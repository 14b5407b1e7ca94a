"""docs/hosts/compose.yaml, each service by the command, the user and the files that stand there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.netns.test_hosts import SERVICES
from tests.rig.envoy import CONFIGURATIONS, get
from tests.rig.namespace import PREFIX
from tests.rig.pod import ADDRESSES, GATEWAY
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rig.envoy import Envoy
    from tests.rig.pod import Pod


def test_the_services_of_compose_do_what_they_are_for(pod: Pod, envoy: Callable[..., Envoy]) -> None:
    """A call from outside to the application goes through Envoy, which logs it; without rules Envoy sees nothing."""
    assert pod.inside.name.startswith(PREFIX)
    app = SERVICES["app"]
    user, _, group = app["user"].partition(":")
    as_user = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
    program, *arguments = app["command"]
    assert program == "python3"
    pod.applied(*SERVICES["capture"]["command"])
    (mounted,) = SERVICES["envoy"]["volumes"]
    source, path, _ = mounted.split(":")
    assert (CONFIGURATIONS.parent / "hosts" / source).resolve().parent == CONFIGURATIONS
    assert path in SERVICES["envoy"]["command"]
    proxy = envoy(Path(source).stem, uid=int(SERVICES["envoy"]["user"].partition(":")[0]))
    command = ["ip", "netns", "exec", pod.inside.name, *as_user, "--", sys.executable, *arguments]
    server = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: get(pod.outside, ADDRESSES[4], 8080).status == 200)
        assert proxy.logged(f"inbound from {GATEWAY[4]}:", f"to {ADDRESSES[4]}:8080 as 127.0.0.6:")
        before = proxy.counted("tcp.inbound.downstream_cx_total")
        pod.applied("--cleanup-only")
        assert get(pod.outside, ADDRESSES[4], 8080).status == 200
        assert proxy.counted("tcp.inbound.downstream_cx_total") == before
    finally:
        server.kill()
        server.wait()
