"""Where not to run, and what not to take: the namespace of a Kubernetes node, and the port of an SSH server.

Capturing a node's own namespace takes the traffic of every pod on it, and of the kubelet. A plain Linux host is a
place to run; there, whoever gave the command came in by SSH, and would not come in again.
"""

from __future__ import annotations

import os

from capture.kernel.files import MOST, read_text
from capture.kernel.process import read_words
from capture.kernel.seam import primitive
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from capture.netlink.rtnetlink import Address

OUR_NAMESPACE = "/proc/thread-self/ns/net"
INTERFACES = "/proc/thread-self/net/dev"
SOCKETS = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
SOCKET_COUNTS = ("/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6")
TCP_COUNTS = "/proc/thread-self/net/snmp"
COUNTED = ("TCP:", "TCP6:", "UDP:", "UDP6:")
LISTENING, ESTABLISHED = "0A", "01"
"""TCP_LISTEN and TCP_ESTABLISHED of net/tcp_states.h, as /proc/net/tcp spells it (proc_net_tcp.rst)."""
SSH_SERVERS = ("sshd", "sshd-session", "dropbear")
"""The names of SSH servers: since OpenSSH 9.8 a session has a program of its own."""
SSH_PORT = 22
ACTIVATORS = ("systemd", "init", "inetd", "xinetd")
"""Who listens in place of a server and starts it when somebody comes; pid 1, whatever its name."""
SSH_UNITS = ("ssh.socket", "sshd.socket")
UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/lib/systemd/system")
LISTENS = "ListenStream"
FIRST_PASSING = 32768
"""From here on a port is one that the kernel gave to a connection that begins here (ip_local_port_range)."""
MOST_ANCESTORS = 64
ROOT = "0"
"""The uid of who opened a socket, in the same place."""

# fmt: off
NODE_CHAINS = (
    "KUBE-", "KIND-MASQ-AGENT", "IP-MASQ-AGENT", "cali-", "felix-", "CILIUM_", "OLD_CILIUM_", "FLANNEL-", "WEAVE",
    "ANTREA-", "OVN-KUBE-", "OPENSHIFT-", "AWS-SNAT-CHAIN", "AWS-CONNMARK-CHAIN", "AZURE-NPM", "ISTIO_POSTRT",
    "ztunnel-",
)
"""How the chains begin of the kubelet, kube-proxy, network plugins, and the node agents of meshes. None works inside a
pod. Those of docker, libvirt and ufw are at home on any host."""
NODE_TABLES = (
    "kube-", "calico", "cilium", "flannel-", "ovn-kubernetes", "antrea", "kindnet", "openshift", "talos", "weave",
)
"""How their tables of nf_tables begin, and that of an operating system for nodes."""
NODE_INTERFACES = (
    "flannel", "cali", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "cilium_", "lxc_health", "kube-ipvs0",
    "kube-bridge", "kube-dummy-if", "kube-lb", "nodelocaldns", "antrea-", "ovn-k8s-", "weave", "vethwe-",
)
"""How the interfaces begin that they make on a node."""
NODE_BRIDGES = ("cni0", "cbr0", "br-ex", "azure0")
"""Bridges that they make there, by their whole names."""
NODE_ENDS = ("eni", "azv", "gke")
"""How the host's end of a pod's link begins with the plugins of the clouds, before a hexadecimal number."""
CNI_CHAINS = "CNI-"
"""How the chains of the standard network plugins begin: on a node, and where podman or nerdctl use them."""
WITHOUT_KUBERNETES = ("cni-podman", "nerdctl")
"""How the bridges of those two begin."""
# fmt: on
IN_KUBERNETES = "KUBERNETES_SERVICE_HOST"
"""A variable that the kubelet gives to every container."""


def signs_of_a_node(chains: Iterable[str], tables: Iterable[str]) -> list[str]:
    """What here shows that this is a Kubernetes node's namespace; nothing if it is not."""
    links = interfaces()
    theirs = NODE_CHAINS if any(link.startswith(WITHOUT_KUBERNETES) for link in links) else (*NODE_CHAINS, CNI_CHAINS)
    signs = [f"the chain {name}" for name in chains if name.startswith(theirs)]
    signs += [f"the table {name}" for name in tables if name.startswith(NODE_TABLES)]
    signs += [f"the interface {name}" for name in links if is_of_a_node(name)]
    return list(dict.fromkeys(signs))


def is_of_a_node(link: str) -> bool:
    """Whether an interface of this name is a sign of a node."""
    if link in NODE_BRIDGES or link.startswith(NODE_INTERFACES):
        return True
    number = link[3:] if link.startswith(NODE_ENDS) else ""
    return bool(number) and not number.strip("0123456789abcdef")


def interfaces() -> list[str]:
    """The interfaces of this namespace."""
    try:
        # A name has no blank in it (dev_valid_name in net/core/dev.c), but it may have what else ends a line.
        return [line.partition(":")[0].strip(" ") for line in read_text(INTERFACES, MOST).split("\n") if ":" in line]
    except OSError:
        return []


class Process(Value):
    """A process in this network namespace."""

    pid: int
    name: str
    uid: int
    gid: int = -1
    """Its effective group, by which the rules know a sender."""
    parent: int = 0
    """The pid of the process that began it."""


@primitive
def processes() -> Iterator[Process]:
    """The other processes that share this network namespace, as far as we may look."""
    try:
        ours, we = os.readlink(OUR_NAMESPACE), os.getpid()
        pids = _residents.get(ours, []) if _residents else running()
    except OSError:
        return
    for pid in pids:
        try:
            if pid != we and namespace_of(pid) == ours:
                yield process(pid)
        except (OSError, KeyError, ValueError):
            continue  # it ended meanwhile, or we may not look at it


def running() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def namespace_of(pid: int) -> str:
    """The network namespace that a process is in, by its number (namespaces(7)). Raises OSError."""
    return os.readlink(f"/proc/{pid}/ns/net")  # half the work of stat(2), and there are many processes


_residents: dict[str, list[int]] = {}
"""Who lives in which namespace, if that was looked up for all of them."""


def remember_who_lives_where() -> None:
    """Look once, for a run that is for many namespaces: a node has thousands of processes, and each look is at all."""
    for pid in running():
        try:
            _residents.setdefault(namespace_of(pid), []).append(pid)
        except OSError:
            continue  # it ended meanwhile


def process(pid: int) -> Process:
    """What proc_pid_status(5) tells of a process. Raises OSError, KeyError or ValueError if it does not.

    The owner of /proc/PID would be root for one that has changed its user.
    """
    fields = dict(line.split(":", 1) for line in read_text(f"/proc/{pid}/status").split("\n") if ":" in line)
    uid, gid = (int(fields[ids].split()[1]) for ids in ("Uid", "Gid"))
    return Process(pid, fields["Name"].strip(), uid, gid, int(fields["PPid"]))


def ssh_ports(
    found: Iterable[Process], addresses: Iterable[Address], environ: Mapping[str, str]
) -> tuple[tuple[int, str], ...]:
    """The ports by which somebody may be logged in here, each with how it was found. None in a container of a pod."""
    if IN_KUBERNETES in environ:
        return ()
    ports: dict[int, str] = {}
    here = {str(address.ip) for address in addresses}
    for its_environ, whose in ((environ, "this SSH session came in there"), *of_ancestors()):
        session = its_environ.get("SSH_CONNECTION", "").split()
        if len(session) == 4 and is_port(session[3]) and session[2] in here:
            ports.setdefault(int(session[3]), whose)
    # Anybody may call himself so, and would have a port left alone.
    of_root = [process for process in found if not process.uid]
    servers = [process for process in of_root if process.name in SSH_SERVERS]
    activators = [process for process in of_root if process.pid == 1 or process.name in ACTIVATORS]
    if servers or activators:
        ports = {**of_servers(servers, activators), **ports}
    return tuple(sorted(ports.items()))


def of_servers(servers: list[Process], activators: list[Process]) -> dict[int, str]:
    """The ports on which SSH servers listen, or have sessions, or are started by those who listen for them."""
    ports: dict[int, str] = {}
    listening, talking = listening_sockets(), connected_sockets()
    for server in servers:
        for inode in sockets_of(server.pid):
            if inode in listening:
                ports[listening[inode]] = f"{server.name} (pid {server.pid}) listens there"
            elif talking.get(inode, FIRST_PASSING) < FIRST_PASSING or talking.get(inode) in listening.values():
                ports.setdefault(talking[inode], f"{server.name} (pid {server.pid}) has a session there")
    for activator in activators:
        for inode in sockets_of(activator.pid):
            if inode in listening and listening[inode] in (SSH_PORT, *ports_of_units()):
                what = f"{activator.name} (pid {activator.pid}) listens there and starts sshd"
                ports.setdefault(listening[inode], what)
    return ports


def ports_of_units() -> set[int]:
    """The ports at which systemd listens for sshd, by its unit files (systemd.socket(5)), in force or not."""
    ports = set()
    for folder in UNIT_FOLDERS:
        for unit in SSH_UNITS:
            for path in (f"{folder}/{unit}", *(f"{folder}/{unit}.d/{name}" for name in names_in(f"{folder}/{unit}.d"))):
                try:
                    lines = read_text(path).split("\n")
                except OSError:
                    continue
                ends = (line.partition("=")[2].strip().rpartition(":")[2] for line in lines if line.startswith(LISTENS))
                ports |= {int(port) for port in ends if is_port(port)}
    return ports


def names_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def of_ancestors() -> Iterator[tuple[dict[str, str], str]]:
    """The environment of whoever began us, and of whoever began him, each with how to call his SSH session.

    sudo takes the variable away, and a service has none; the shell above still has it.
    """
    pid = os.getppid()
    for _ in range(MOST_ANCESTORS):
        try:
            it = process(pid)
            variables = read_text(f"/proc/{pid}/environ").split("\0")
        except (OSError, KeyError, ValueError):
            return  # it ended meanwhile, or we may not look at it
        environ = dict(variable.partition("=")[::2] for variable in variables)
        yield environ, f"the SSH session of {it.name} (pid {pid}), which began this, came in there"
        pid = it.parent


def is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535


def has_sockets() -> bool:
    """Whether anybody in this namespace has a TCP or UDP socket or had a connection, or true if that cannot be told.

    Who had one may be about to open the next. Sums, where reading the sockets takes the kernel through a table of the
    whole host.
    """
    counted = [read_words(path) for path in SOCKET_COUNTS]
    if not counted[0]:
        return True  # the other file is missing where the kernel has no IPv6
    words = [word for found in counted for word in found or ()]
    # A line reads `TCP: inuse 2 …`.
    return any(word in COUNTED and words[at + 2] != "0" for at, word in enumerate(words)) or had_connections()


def had_connections() -> bool:
    """Whether a TCP connection was opened from here or accepted here, of either family, or true if we may not look."""
    words = read_words(TCP_COUNTS)
    if words is None:
        return True
    # A line names the counters, the next one has their numbers (the group tcp of RFC 1213).
    lines = [at for at, word in enumerate(words) if word == "Tcp:"]
    told = dict(zip(words[lines[0] : lines[1]], words[lines[1] :], strict=False)) if len(lines) == 2 else {}
    return any(told.get(name, "0") != "0" for name in ("ActiveOpens", "PassiveOpens"))


def listening_sockets() -> dict[str, int]:
    """The ports of listening TCP sockets of this namespace that are root's, by inode."""
    return sockets_in(LISTENING)


def connected_sockets() -> dict[str, int]:
    """Our ports of the established TCP connections of this namespace that are root's, by inode."""
    return sockets_in(ESTABLISHED)


def sockets_in(state: str) -> dict[str, int]:
    found = {}
    for path in SOCKETS:
        try:
            lines = read_text(path, MOST).split("\n")[1:-1]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == state and words[7] == ROOT:
                found[words[9]] = int(words[1].rpartition(":")[2], 16)
    return found


def sockets_of(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets."""
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                yield target[len("socket:[") : -1]
    except OSError:
        return
