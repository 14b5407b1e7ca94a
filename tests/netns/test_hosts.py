"""docs/hosts: the unit by a service manager of systemd, the compose file's services by what they are started with."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.rig import PROXY
from tests.rig.pod import ROOT, readable_source
from tests.rig.systemd import Systemd, missing
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig import Pod

FOLDER = ROOT / "docs/hosts"


@pytest.fixture
def manager(pod: Pod, tmp_path: Path) -> Iterator[Systemd]:
    """A manager with the units of the page, whose capture is ours, and whose Envoy is a program that goes on."""
    if why := missing():
        pytest.skip(why)
    made = Systemd(pod.inside, tmp_path)
    program = tmp_path / "capture"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {readable_source()!r})\n"
        "from capture.__main__ import main\nmain()\n"
    )
    program.chmod(0o755)
    (tmp_path / "settings").write_text(f'CAPTURE_ARGS="-p 15001 -z 15006 -u {PROXY}"\n')
    unit = (FOLDER / "capture.service").read_text().replace("/usr/local/bin/capture", str(program))
    # It may not see /home and /tmp, where this test and its Python may be; what it says is seen without a journal.
    unit = re.sub(r"(ProtectHome|PrivateTmp)=yes\n", "", unit)
    unit = unit.replace("[Service]\n", f"[Service]\nStandardError=append:{tmp_path}/said\n")
    (made.units / "capture.service").write_text(unit.replace("/etc/default/capture", str(tmp_path / "settings")))
    envoy = re.sub(r"ExecStart=.*", f"ExecStart={shutil.which('sleep')} 1000", (FOLDER / "envoy.service").read_text())
    (made.units / "envoy.service").write_text(re.sub(r"User=.*\n", "", envoy))
    # What `systemctl enable` would make of RequiredBy.
    (made.units / "envoy.service.requires").mkdir()
    (made.units / "envoy.service.requires/capture.service").symlink_to(made.units / "capture.service")
    with made:
        yield made


def test_the_units_rules_come_before_the_proxy_and_go_after_it(pod: Pod, manager: Systemd) -> None:
    """Starting Envoy's unit captures first; they stay where it crashes and comes again; stopping them stops Envoy."""
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "ext:80"
    manager.done("start", "envoy.service")
    assert (str(pod.dial("9.9.9.9", 80)), str(pod.dial_in(9080))) == ("pod:15001", "pod:15006")
    times = [started(manager, unit) for unit in ("capture.service", "envoy.service")]
    assert times == sorted(times)

    rules = pod.saved()
    manager.done("kill", "--signal=KILL", "envoy.service")
    until(lambda: started(manager, "envoy.service") > times[1])
    manager.done("restart", "envoy.service")
    assert started(manager, "capture.service") == times[0]
    assert pod.saved() == rules

    manager.done("stop", "capture.service")
    assert manager.call("is-active", "capture.service", "envoy.service").stdout.split() == ["inactive", "inactive"]
    assert str(pod.dial("9.9.9.9", 80)) == "ext:80"
    assert pod.saved() == []
    stopped = [when(manager, unit, "InactiveEnter") for unit in ("envoy.service", "capture.service")]
    assert stopped == sorted(stopped)


def test_a_reload_takes_other_settings_and_a_refusal_keeps_the_proxy_from_starting(
    pod: Pod, manager: Systemd, tmp_path: Path
) -> None:
    """In one step, without the proxy; and where a setting is refused, Envoy's unit fails as well, with our sentence."""
    pod.open_listeners()
    manager.done("start", "envoy.service")
    (tmp_path / "settings").write_text(f'CAPTURE_ARGS="-u {PROXY} -o 80"\n')
    manager.done("reload", "capture.service")
    assert (str(pod.dial("9.9.9.9", 80)), str(pod.dial("9.9.9.9", 443))) == ("ext:80", "pod:15001")
    manager.done("stop", "capture.service")
    (tmp_path / "settings").write_text('CAPTURE_ARGS="-u nobody-there"\n')
    assert manager.call("start", "envoy.service").returncode != 0
    assert manager.call("is-active", "envoy.service").stdout.strip() == "inactive"
    assert 'refused flag -u "nobody-there"' in (tmp_path / "said").read_text()
    assert pod.saved() == []


def started(manager: Systemd, unit: str) -> int:
    return when(manager, unit, "ActiveEnter")


def when(manager: Systemd, unit: str, what: str) -> int:
    """In microseconds of the machine's clock."""
    return int(manager.done("show", unit, f"--property={what}TimestampMonotonic", "--value"))


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """By systemd-analyze verify, which names what it does not know; ordered behind all that write rules, and sshd."""
    text = (FOLDER / "capture.service").read_text()
    order = " ".join(re.findall(r"^After=(.*)$", text, re.M)).split()
    assert {f"{name}.service" for name in ("firewalld", "ufw", "docker", "nftables", "ssh", "sshd")} <= set(order)
    if not shutil.which("systemd-analyze"):
        pytest.skip("not installed: systemd-analyze")
    for name in ("capture", "envoy"):
        text = (FOLDER / f"{name}.service").read_text()
        (tmp_path / f"{name}.service").write_text(
            re.sub(r"=/usr/local/bin/\w+", "=/bin/true", text).replace("Documentation=man:capture(1)\n", "")
        )
    command = ["systemd-analyze", "verify", *map(str, tmp_path.glob("*.service"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- compose ----------------------------------------------------------------------------------------------

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


def test_the_services_of_compose_start_one_after_the_other() -> None:
    """The namespace, the rules until they are there, the proxy, the application; all in one namespace."""
    order = ["net", "capture", "envoy", "app"]
    for before, after in pairwise(order):
        assert list(SERVICES[after]["depends_on"]) == [before]
        assert SERVICES[after]["network_mode"] == "service:net"
    assert SERVICES["envoy"]["depends_on"]["capture"] == {"condition": "service_completed_successfully"}
    assert not any("ports" in SERVICES[name] for name in order[1:])
    assert list(SERVICES) == order
