"""`--network-namespace`: each command answers of another namespace what it would answer in there."""

from __future__ import annotations

import re

import pytest

from capture.errors import DONE
from tests.rig.in_process import Ended, capture
from tests.rig.memory import Memory, everything

COMMANDS = (
    "status",
    "verify -u 1337",
    "diff -u 1337 -o 22",
    "trace --live 9.9.9.9:80 --iface eth0",
    "trace --in :80",
    "escapes --live",
    "explain -u 1337",
    "graph --live",
    "render --redirect-dns --capture-all-dns",
    "settings",
    "clean",
    "-u 1338",
    "--cleanup-only",
    "-n --force-iptables-binary=nft",
)


def pod() -> Memory:
    """A captured one."""
    made = Memory("127.0.0.1/8", "10.244.0.5/24", "fd00:244::5/64")
    assert capture(made, "-u", "1337", "--ipv6=on").status == DONE
    return made


@pytest.mark.parametrize("line", COMMANDS)
def test_it_answers_as_if_it_were_there(line: str) -> None:
    """And where it is given stays as it is; a namespace that is not there is refused with its name."""
    there, here = pod(), Memory("192.0.2.1/24")
    here.others["pod"] = pod()
    before = everything(here)
    words = line.split()
    said = spared(capture(there, *words))
    assert spared(capture(here, *words, "--network-namespace", "pod")) == said
    assert (everything(here), everything(here.others["pod"])) == (before, everything(there))
    refused = capture(here, *words, "--network-namespace", "nowhere")
    assert refused.status != DONE or words == ["settings"]
    assert "cannot enter the network namespace nowhere" in refused.stdout + refused.stderr or words == ["settings"]


def spared(ended: Ended) -> Ended:
    """Without what has to differ: the time, and what is said of the setting itself."""
    lines = [
        re.sub(r"^\S+Z\t", "", line)
        for line in (ended.stdout + ended.stderr).splitlines()
        if not re.search("network.namespace", line, re.IGNORECASE)
    ]
    return Ended(ended.status, "\n".join(lines), "")
