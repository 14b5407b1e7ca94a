"""The plugin in a chain of a real runtime: podman, with the standard plugins before ours."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig import PROXY, Namespace
from tests.rig.chance import ALL
from tests.rig.envoy import serving
from tests.rig.pod import APP, has, readable_source
from tests.rig.runtime import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGINS = Path("/usr/lib/cni")
NEEDED = has("podman", "crun", "conmon", "unshare") or ([] if (PLUGINS / "bridge").exists() else ["the plugin bridge"])
pytestmark = pytest.mark.skipif(bool(NEEDED), reason=f"not installed: {', '.join(NEEDED)}")

CONTAINER = f"""
import os, socket
heard = socket.create_server(("0.0.0.0", 15001)) if not os.environ.get("MUTE") else None
if heard and not os.fork():
    os.setuid({PROXY})
    client, _ = heard.accept()
    client.recv(100)
    client.sendall(b"the proxy")
    os._exit(0)
os.setuid({APP})
call = socket.create_connection(("9.9.9.9", 80), 5)
call.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
print(call.makefile().read().splitlines()[-1])
"""
"""A proxy that listens, and an application whose very first connection goes out."""
PRIVATE = (
    "mount --make-rprivate / && mount -t tmpfs none /var/lib && mkdir /var/lib/cni && "
    "mount -t tmpfs none /run/netns && "
    "{{ umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; }} && "
    '"$@"; status=$?; ls /run/netns > {root}/namespaces; exit $status'
)
"""What is written below these stays in this mount namespace."""


ALONE = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Of unshare(1): what a runtime starts and leaves running ends with it."""


class Podman:
    """podman with a network of CNI, in a namespace that is its node."""

    def __init__(self, node: Namespace, root: Path) -> None:
        self.node, self.root = node, root
        for folder in ("bin", "net.d", "rootfs/tmp", "rootfs/proc", "rootfs/dev", "rootfs/sys", "rootfs/etc"):
            (root / folder).mkdir(parents=True)
        for name in ("lib", "lib64", "bin"):
            if Path(f"/{name}").is_symlink():
                (root / "rootfs" / name).symlink_to(Path(f"/{name}").readlink())
        plugin = (
            f"#!{sys.executable}",
            "import sys",
            f"sys.path.insert(0, {readable_source()!r})",
            PROGRAM.read_text(),
        )
        (root / "bin/capture-cni").write_text("\n".join(plugin))
        (root / "bin/capture-cni").chmod(0o755)
        (root / "containers.conf").write_text(f"""
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
lock_type = "file"
events_logger = "none"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{PLUGINS}", "{root}/bin"]
network_config_dir = "{root}/net.d"
default_network = "pods"
""")

    def chain(self, *args: str) -> None:
        """The node's network: a bridge, and ours behind it with these settings."""
        ranges = [[{"subnet": "10.89.0.0/24"}]]
        routes = [{"dst": "0.0.0.0/0"}]
        ipam = {"type": "host-local", "dataDir": f"{self.root}/ipam", "ranges": ranges, "routes": routes}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "ipam": ipam}
        ours = {"type": "capture-cni", "capture": {"args": list(args)}}
        chain = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ours]}
        (self.root / "net.d/10-pods.conflist").write_text(json.dumps(chain))

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Run the container, whose file system is the machine's programs and nothing else."""
        stores = ["--root", f"{self.root}/images", "--runroot", f"{self.root}/run", "--tmpdir", f"{self.root}/tmp"]  # noqa: S108 # in a folder of our own
        quiet = ["--storage-driver", "vfs", "--runtime", "crun", "--cgroup-manager", "cgroupfs"]
        shown = [word for path in dict.fromkeys(("/usr", sys.base_prefix)) for word in ("-v", f"{path}:{path}:ro")]
        what = ["--rm", "--cgroups=disabled", "--security-opt", "seccomp=unconfined", *shown, *more]
        python = f"{sys.base_prefix}/bin/python3"
        command = ["podman", *stores, *quiet, "run", *what, "--rootfs", f"{self.root}/rootfs", python, "-c", CONTAINER]
        script = PRIVATE.format(root=self.root)
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CONTAINERS_CONF": f"{self.root}/containers.conf",
            "HOME": "/root",
        }
        return self.node.run("unshare", *ALONE, "sh", "-c", script, "sh", *command, env=env)

    def left(self) -> list[str]:
        """What a container has left behind: namespaces, links of the bridge, addresses that are given away."""
        links = [line.split()[1] for line in self.node.output("ip", "-o", "link").splitlines()]
        given = [path.name for path in (self.root / "ipam").rglob("10.*")]
        namespaces = (self.root / "namespaces").read_text().split()
        return [*namespaces, *(link for link in links if "veth" in link), *given]


UNPACKED = Path(sys.prefix) / "containerd"
PROGRAMS = os.pathsep.join([os.environ.get("PATH", ""), f"{UNPACKED}/usr/bin", f"{UNPACKED}/usr/sbin"])
"""Where containerd is: installed, or unpacked by the Makefile, for an installation would start its daemon."""
ABSENT = [name for name in ("containerd", "ctr", "runc") if not shutil.which(name, path=PROGRAMS)]
CONTAINERD = """
mount --make-rprivate /
mount --bind {root}/net.d /etc/cni/net.d
# Only /opt/cni is to be another one: what else is there may be where we are.
mkdir -p {root}/opt && mount --rbind /opt {root}/opt
mount -t tmpfs none /opt && mkdir -p /opt/cni/bin && ln -s {plugins}/* {root}/bin/* /opt/cni/bin/
for folder in $(ls {root}/opt); do
    [ $folder = cni ] || {{ mkdir /opt/$folder && mount --rbind {root}/opt/$folder /opt/$folder; }}
done
mount -t tmpfs none /var/lib && mkdir /var/lib/cni
containerd --config {root}/containerd.toml --log-level warn >{root}/containerd.log 2>&1 &
daemon=$!
until ctr -a {root}/c.sock version >/dev/null 2>&1 || ! kill -0 $daemon; do sleep 0.05; done
"$@"
status=$?
# What ctr leaves of a container whose network failed.
ctr -a {root}/c.sock tasks delete --force {name} 2>/dev/null
ctr -a {root}/c.sock containers delete {name} 2>/dev/null
kill $daemon
wait $daemon
rmdir /sys/fs/cgroup/*/default 2>/dev/null
exit $status
"""


class Containerd(Podman):
    """containerd and its `ctr`, with a daemon of its own for each container."""

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        (self.root / "containerd.toml").write_text(f"""
version = 2
root = "{self.root}/root"
state = "{self.root}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{self.root}/c.sock"
""")
        name = f"web-{secrets.token_hex(4)}"  # one that failed to start keeps its name
        paths = dict.fromkeys(("/usr", sys.base_prefix))
        shown = [w for path in paths for w in ("--mount", f"type=bind,src={path},dst={path},options=rbind:ro")]
        run = ["ctr", "-a", f"{self.root}/c.sock", "run", "--rm", "--cni", "--rootfs", *shown, *more]
        command = [*run, f"{self.root}/rootfs", name, f"{sys.base_prefix}/bin/python3", "-c", CONTAINER]
        script = CONTAINERD.format(root=self.root, plugins=PLUGINS, name=name)
        # Not by `ip netns exec`, which hides the cgroups below /sys.
        enter = ["nsenter", f"--net={self.node.path}", "unshare", *ALONE, "sh", "-c", script, "sh", *command]
        env = {**os.environ, "PATH": PROGRAMS}
        return subprocess.run(enter, capture_output=True, text=True, check=False, timeout=60, env=env)


@pytest.fixture
def podman() -> Iterator[Podman]:
    # podman takes paths of 50 characters at most.
    with (
        tempfile.TemporaryDirectory(prefix="capture-", dir="/tmp", ignore_cleanup_errors=True) as root,
        Namespace("node") as node,
    ):
        own = ("--root", f"{root}/asked", "--runroot", f"{root}/asked-now")
        asked = node.run("podman", *own, "--network-backend", "cni", "info")
        if "cni support is not enabled" in asked.stderr:
            pytest.skip("this podman is built without CNI, as that of Debian 13")
        node.ip("addr", "add", "9.9.9.9/32", "dev", "lo")
        node.output("sysctl", "-qw", "net.ipv4.ip_forward=1")
        with serving(node, "9.9.9.9", 80, "world"):
            yield Podman(node, Path(root))


def test_a_container_is_captured_at_its_first_connection(podman: Podman) -> None:
    """With ours in the chain it lands on the proxy in the container; with the bridge alone it goes out."""
    podman.chain("-u", str(PROXY))
    done = podman.run()
    assert (done.returncode, done.stdout) == (0, "the proxy\n"), done
    podman.chain("-u", str(PROXY), "-o", "80")
    assert '"by": "world"' in podman.run("-e", "MUTE=1").stdout


def test_a_refused_setting_fails_the_start_with_our_sentence(podman: Podman) -> None:
    """The runtime shows it, and nothing of the container is left."""
    podman.chain("-u", "nobody-there")
    done = podman.run()
    assert done.returncode != 0
    assert 'capture failed: refused flag -u "nobody-there"' in done.stderr, done
    assert podman.left() == []


def test_many_containers_leave_nothing_behind(podman: Podman) -> None:
    """Neither namespaces, addresses, links nor files."""
    podman.chain("-u", str(PROXY))
    for _ in range(50 if ALL else 3):
        assert podman.run().stdout == "the proxy\n"
    assert podman.left() == []


@pytest.mark.skipif(bool(ABSENT), reason=f"neither installed nor unpacked: {', '.join(ABSENT)}")
def test_containerd_calls_it_as_well(podman: Podman) -> None:
    """`ctr run --cni`, which names the namespace by a pid: captured, and a refused setting fails the start."""
    containerd = Containerd.__new__(Containerd)
    containerd.node, containerd.root = podman.node, podman.root
    containerd.chain("-u", str(PROXY))
    done = containerd.run()
    assert done.stdout == "the proxy\n", done
    containerd.chain("-u", "nobody-there")
    assert 'capture failed: refused flag -u "nobody-there"' in containerd.run().stderr
    containerd.chain("-u", str(PROXY), "-o", "80")
    assert '"by": "world"' in containerd.run("--env", "MUTE=1").stdout
