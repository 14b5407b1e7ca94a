"""Builds the container image and runs it as a node would: `make image`. Everything it stores is below `.image/`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tests.guard import guarded
from tests.rig.pod import ROOT, Pod, is_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.rig.namespace import Namespace

    Say: TypeAlias = Callable[[str], None]

STORE = ROOT / ".image"
SUITE = "trixie"
"""The Debian that the Dockerfile asks for."""
SUITES = (SUITE, "bookworm")
TOOLS = {
    "buildah": "buildah",
    "podman": "podman",
    "conmon": "conmon",
    "crun": "crun",
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "iptables-nft-save": "iptables",
}
"""What building and running takes, and the Debian package of each."""
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
"""The certificates that this host trusts: the build trusts the same, which matters where a proxy opens TLS."""
CA_BUNDLE_OF_THE_BUILD = ROOT / "requirements-ca.crt"
"""Where the Dockerfile looks for them."""

STEP = re.compile(r".*\bSTEP \d+/\d+: .{1,80}")
"""What buildah says at the beginning of each instruction."""

CONTAINERS_CONF = """
[containers]
# The default limits are above those of a host that is itself a container.
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"

[engine]
# Locks and events in the store, not shared with the containers of this host.
lock_type = "file"
events_logger = "none"
"""

CAPABILITIES = ("NET_ADMIN", "NET_RAW")
"""What the pod specs add, after dropping all."""
ARGS_1_20_1 = (
    *("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*"),
    *("-d", "15090,15021,15020", "--log_output_level=default:info"),
)
"""`args` of the pod spec that Istio 1.20.1 writes."""
COMMAND_1_5_1 = (
    *("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*"),
    *("-d", "15090,15020"),
)
"""`command` of the pod spec of 1.5.1, which has no `args`."""
ARGS_1_0_5 = ("-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "9080", "-d", "")
"""`args` of the pod spec of 1.0.5, which relies on the entrypoint."""

STOPWATCH = """
import glob, os, resource, sys, time
began = time.perf_counter()
if not (child := os.fork()):
    for limit in glob.glob("/limits/*"):
        with open(limit, "w") as file:
            file.write("0")
    os.execv(sys.argv[1], sys.argv[1:])
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
wall, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
print(round(1000 * wall), round(1000 * (used.ru_utime + used.ru_stime)), used.ru_maxrss // 1024, file=sys.stdout)
sys.exit(status)
"""
"""Runs a program inside the container, in the control groups whose files are in /limits, and prints its wall time, CPU
(ms) and largest resident size (MiB)."""


@dataclass(frozen=True)
class Image:
    """A built image, with what it cost."""

    name: str
    seconds: float
    """Time it took to build."""
    unpacked: int
    """Bytes on a node's disk."""
    compressed: int
    """Bytes in a registry."""


class ToolFailedError(Exception):
    """The message is the command and what it printed."""


class NoBaseError(ToolFailedError):
    """There is no base image, and none can be made here: nothing of ours was built yet."""


def missing_tools() -> list[str]:
    """The Debian packages that have to be installed first."""
    path = environment()["PATH"]
    return sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)})


def build(suite: str = SUITE, say: Say = lambda _: None) -> Image:
    """Build the Dockerfile on a base image made from Debian's own packages. Raises ToolFailedError.

    The base image is kept in the store, so only the first build of a suite pays for it. `say` is told of each step.
    """
    name = f"localhost/traffic-capture:{suite}"
    base = f"docker.io/library/debian:{suite}-slim"
    STORE.mkdir(exist_ok=True)
    (STORE / "containers.conf").write_text(CONTAINERS_CONF)
    # Whatever a build that was interrupted left in the store.
    buildah("rm", "--all")
    podman("rm", "--all", "--force")
    if not buildah("images", "--quiet", "--filter", f"reference={base}").strip():
        say(f"making a base image of {suite} from Debian's packages")
        try:
            make_base(suite, base)
        except ToolFailedError as failed:
            raise NoBaseError(*failed.args) from failed
    began = time.monotonic()
    index = [f"--build-arg=PIP_INDEX_URL={url}" for url in [os.environ.get("PIP_INDEX_URL")] if url]
    with trusted():
        command = ["buildah", *storage(), "build", "--isolation", "chroot", "--pull=never", *index]
        checked([*command, "--build-arg", f"BASE={base}", "--tag", name, str(ROOT)], say)
    seconds = time.monotonic() - began
    # The image that had the name before, if there was one.
    buildah("rmi", "--prune", "--force")
    return Image(name, seconds, *sizes(name))


def build_once(run: str, suite: str = SUITE) -> Image:
    """The image that this run of the tests has built; whoever comes first builds it, and the others wait."""
    built = STORE / "built.json"
    with alone():
        known = json.loads(built.read_text()) if built.exists() else {}
        if known.get("run") != [run, suite]:
            known = {"run": [run, suite], "image": asdict(build(suite))}
            built.write_text(json.dumps(known))
    return Image(**known["image"])


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Whoever builds has the store to himself, for a build begins by removing what others have left."""
    STORE.mkdir(exist_ok=True)
    with (STORE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def trusted() -> Iterator[None]:
    """The build has the certificates that this host trusts, unless somebody has put others there."""
    if CA_BUNDLE_OF_THE_BUILD.exists() or not CA_BUNDLE.is_file():
        yield
        return
    shutil.copyfile(CA_BUNDLE, CA_BUNDLE_OF_THE_BUILD)
    try:
        yield
    finally:
        CA_BUNDLE_OF_THE_BUILD.unlink()


def make_base(suite: str, name: str) -> None:
    """Bootstrap a minimal Debian and import it under the name that the Dockerfile asks for."""
    with tempfile.TemporaryDirectory(dir=STORE) as folder:
        root, archive = f"{folder}/root", f"{folder}/root.tar"
        checked(["debootstrap", "--variant=minbase", suite, root, *mirror()])
        checked(["tar", "--create", "--file", archive, "--directory", root, "."])
        podman("import", archive, name)


def mirror() -> list[str]:
    """The Debian mirror that apt uses on this host; nothing where it uses none, for debootstrap to take its own."""
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian"]
    if not shutil.which("apt-get"):
        return []
    return checked(["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]).split()[:1]


def sizes(name: str) -> tuple[int, int]:
    """The bytes of an image, unpacked and as a registry would hold it."""
    unpacked = int(podman("image", "inspect", "--format", "{{.Size}}", name))
    with tempfile.TemporaryDirectory(dir=STORE) as folder:
        buildah("push", "--quiet", name, f"oci:{folder}/image")
        blobs = [path for path in Path(folder, "image", "blobs").rglob("*") if path.is_file()]
        return unpacked, sum(blob.stat().st_size for blob in blobs)


def run_in(
    namespace: Namespace,
    arguments: Sequence[str] = (),
    *,
    image: str,
    command: Sequence[str] = (),
    capabilities: Sequence[str] = CAPABILITIES,
    user: str = "0:0",
    environ: Sequence[str] = (),
    groups: Sequence[Path] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the image in a pod's namespace as a node would, with a read-only root and these capabilities alone.

    `arguments` are the pod spec's `args`, `command` its `command`, `environ` lines NAME=VALUE. `groups` are
    files of control groups, which are below /limits in the container: it is itself in none.
    """
    shown = [f"{STORE}/limits/{number}" for number in range(len(groups))]
    entrypoint = ("--entrypoint", json.dumps(list(command))) if command else ()
    podman_run = [
        *podman_command(),
        *("run", "--rm", "--pull=never", "--cgroups=disabled", "--network", f"ns:{namespace.path}"),
        *("--cap-drop=all", *(f"--cap-add={name}" for name in capabilities), "--security-opt=no-new-privileges"),
        # Kubernetes gives a read-only container no writable /run and /tmp, as podman would.
        *("--read-only", "--read-only-tmpfs=false", "--user", user),
        *(f"--env={line}" for line in environ),
        *(f"--volume={seen}:/limits/{number}" for number, seen in enumerate(shown)),
        *(*entrypoint, image, *arguments),
    ]
    (STORE / "limits").mkdir(exist_ok=True)
    for path in shown:
        Path(path).touch()
    binds = [shlex.join(["mount", "--bind", str(path), seen]) for path, seen in zip(groups, shown, strict=True)]
    # crun wants a unified hierarchy of control groups, which not every host has; it hides the others.
    script = " && ".join([*binds, "mount -t cgroup2 none /sys/fs/cgroup", f"exec {shlex.join(podman_run)}"])
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False, env=environment()
    )


def start_up(
    namespace: Namespace,
    arguments: Sequence[str],
    *,
    image: str,
    program: str = "capture",
    groups: Sequence[Path] = (),
) -> tuple[int, int, int]:
    """The wall time and CPU in ms and the resident size in MiB of one run, by a clock inside the container.

    `groups` are the files of control groups that it is in.
    """
    command = ("/usr/bin/python3", "-IS", "-c", STOPWATCH, f"/usr/local/bin/{program}", *arguments)
    done = run_in(namespace, image=image, command=command, groups=groups)
    if done.returncode:
        raise ToolFailedError(done.stderr)
    wall, cpu, resident = map(int, done.stdout.split())
    return wall, cpu, resident


def buildah(*arguments: str) -> str:
    return checked(["buildah", *storage(), *arguments])


def podman(*arguments: str) -> str:
    return checked([*podman_command(), *arguments])


def podman_command() -> list[str]:
    return ["podman", *storage(), "--tmpdir", f"{STORE}/podman", "--runtime", "crun", "--cgroup-manager", "cgroupfs"]


def storage() -> list[str]:
    return ["--root", f"{STORE}/images", "--runroot", f"{STORE}/run", "--storage-driver", "vfs"]


def environment() -> dict[str, str]:
    """For the tools: where the superuser's programs are, and a configuration of their own."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    return {**os.environ, "PATH": path, "CONTAINERS_CONF": f"{STORE}/containers.conf"}


def checked(command: Sequence[str], say: Say = lambda _: None) -> str:
    """The stdout of a program that must succeed; `say` is told of its steps.

    Raises ToolFailedError with what it printed.
    """
    said = list[str]()
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()) as process:
            for line in process.stdout or ():
                said.append(line)
                if step := STEP.match(line):
                    say(step[0])
        if process.returncode:
            errors.seek(0)
            raise ToolFailedError(f"{shlex.join(command)}\n{''.join(said)[-4000:]}{errors.read()[-4000:]}")
    return "".join(said)


def show(image: Image) -> bool:
    """Run the arguments of the 1.20.1 pod spec in a pod, twice, and say what was seen; whether it was as it should."""
    print(f"{image.name}: built in {image.seconds:.0f} s")
    print(f"size: {image.unpacked / 1e6:.1f} MB unpacked, {image.compressed / 1e6:.1f} MB compressed")
    print(f"\nrunning with {' and '.join(CAPABILITIES)} alone and a read-only root:\n  {shlex.join(ARGS_1_20_1)}\n")
    with Pod(ipv6=False) as pod:
        first = run_in(pod.inside, ARGS_1_20_1, image=image.name)
        if first.returncode:
            print(first.stderr, f"exit status {first.returncode}", sep="\n")
            return False
        for line in pod.saved():
            print(f"  {line}")
        again = run_in(pod.inside, ARGS_1_20_1, image=image.name)
        last = again.stderr.splitlines()[-1].split("\t")[-1] if again.stderr else "nothing said"
        print(f"\na second run: exit status {again.returncode}: {last}")
    with Pod(ipv6=False) as pod:
        wall, cpu, resident = start_up(pod.inside, ARGS_1_20_1, image=image.name)
    print(f"in a new pod, by a clock inside: {wall} ms, {cpu} ms of CPU, {resident} MiB")
    return again.returncode == 0 and "already in place" in again.stderr


def main(suite: str = SUITE) -> int:
    """Build the image for a suite of Debian, run it, and say what was seen."""
    if suite not in SUITES:
        print(f"usage: python -m tests.image [{'|'.join(SUITES)}]", file=sys.stderr)
        return 2
    if not is_root():
        print("Building an image from Debian's packages takes root.", file=sys.stderr)
        return 1
    missing = missing_tools()
    if missing:
        print(f"These Debian packages are missing: {' '.join(missing)}", file=sys.stderr)
        print(f"apt-get install --no-install-recommends {' '.join(missing)}", file=sys.stderr)
        return 1
    try:
        with alone():
            built = build(suite, lambda step: print(step, flush=True))
        return 0 if show(built) else 1
    except ToolFailedError as failed:
        print(failed, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(*sys.argv[1:2])))
