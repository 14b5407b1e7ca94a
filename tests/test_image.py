"""The container image: every caller of istio-iptables' image runs in ours unchanged, with what a pod spec grants."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests import image as images
from tests.bench import limited
from tests.image import ARGS_1_0_5, ARGS_1_20_1, COMMAND_1_5_1, Image, run_in, start_up
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.rig.pod import Pod

ASKED = os.environ.get("CAPTURE_TEST_IMAGE", "1")
"""`1`, the suite of Debian to build with, or `0` for no image."""
MISSING = images.missing_tools()

pytestmark = [
    pytest.mark.image,
    pytest.mark.netns,
    pytest.mark.skipif(ASKED in ("", "0"), reason=f"CAPTURE_TEST_IMAGE={ASKED} asks for no image"),
    pytest.mark.skipif(bool(MISSING), reason=f"these Debian packages are missing: {', '.join(MISSING)}"),
]

UNPACKED_MB, COMPRESSED_MB = 73, 29
"""Bounds on the size: what was measured (61 and 24 MB), and a fifth more."""

EXCLUDED = {"1.20.1": (15090, 15021, 15020), "1.5.1": (15090, 15020)}
"""Inbound ports that these pod specs leave alone, in their order."""
NOTHING: tuple[str, ...] = ()
CALLERS = {"1.20.1": (ARGS_1_20_1, NOTHING), "1.5.1": (NOTHING, COMMAND_1_5_1), "1.0.5": (ARGS_1_0_5, NOTHING)}
"""The `args` and the `command` of each pod spec, of which it has one."""
LEGACY = "--force-iptables-binary=legacy"


@pytest.fixture
def image(room: None, testrun_uid: str) -> Image:  # noqa: ARG001 # whoever is in the room keeps a storm out of it
    """Built once in a run of the tests."""
    try:
        return images.build_once(testrun_uid, images.SUITE if ASKED == "1" else ASKED)
    except images.NoBaseError as failed:
        pytest.skip(f"no base image can be made here: {failed}")


def inbound(caller: str) -> list[str]:
    """The rules of ISTIO_INBOUND that this caller's arguments mean."""
    if caller == "1.0.5":
        captured = ["-p tcp -m tcp --dport 9080 -j ISTIO_IN_REDIRECT"]
        excluded: Sequence[int] = ()
    else:
        captured = ["-p tcp -j ISTIO_IN_REDIRECT"]
        excluded = EXCLUDED[caller]
    returned = [f"-p tcp -m tcp --dport {port} -j RETURN" for port in (15008, *excluded)]
    return [f"-A ISTIO_INBOUND {rule}" for rule in (*returned, *captured)]


def test_the_image_is_small(image: Image) -> None:
    """What a node fetches and keeps stays within a fifth of what was measured."""
    assert image.unpacked < UNPACKED_MB * 1_000_000
    assert image.compressed < COMPRESSED_MB * 1_000_000


def test_the_dockerfile_is_for_every_builder() -> None:
    """Docker without BuildKit takes neither mounts of RUN, links of COPY nor texts in line."""
    text = (ROOT / "Dockerfile").read_text()
    instructions = re.findall(r"^[A-Z]+ .*", text, re.M)
    assert not [line for line in instructions if re.match(r"(RUN|COPY) --(?!from=)", line) or "<<" in line]
    assert not re.search(r"^# *syntax *=", text, re.M)


def test_check_tells_in_a_container_what_a_run_would_do(ipv4_pod: Pod, image: Image) -> None:
    """With what a pod spec grants it would work, and does; without NET_ADMIN it would not, and that is named."""
    told = run_in(ipv4_pod.inside, ["check", "-u", "1337"], image=image.name)
    assert (told.returncode, told.stderr) == (0, "")
    assert "a run with these settings will work here, as far as can be told" in told.stdout
    assert "takes CAP_SYS_ADMIN" in told.stdout
    told = run_in(ipv4_pod.inside, ["check", "-u", "1337"], image=image.name, capabilities=["NET_RAW"])
    assert told.returncode == 1
    assert "will fail: CAP_NET_ADMIN: not effective" in told.stdout
    done = run_in(ipv4_pod.inside, ["-u", "1337"], image=image.name)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("caller", CALLERS)
def test_a_pod_spec_runs_unchanged(ipv4_pod: Pod, image: Image, caller: str) -> None:
    """Each caller's pod is captured in both directions, and a second run finds everything in place."""
    pod = ipv4_pod
    pod.open_listeners()
    arguments, command = CALLERS[caller]
    first = run_in(pod.inside, arguments, image=image.name, command=command)
    assert first.returncode == 0, first.stderr
    assert [line for line in pod.saved() if line.startswith("-A ISTIO_INBOUND")] == inbound(caller)
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert str(pod.dial_in(9080)) == "pod:15006"
    assert str(pod.dial("9.9.9.9", 80, uid=1337)) == "ext:80"

    saved = pod.saved()
    again = run_in(pod.inside, arguments, image=image.name, command=command)
    assert again.returncode == 0, again.stderr
    assert "already in place" in again.stderr
    assert pod.saved() == saved


@pytest.mark.parametrize("caller", CALLERS)
def test_a_pod_spec_runs_on_the_legacy_backend(ipv4_pod: Pod, image: Image, caller: str) -> None:
    """The same with legacy tables, whose lock file cannot be made on a read-only root."""
    pod = ipv4_pod
    pod.open_listeners()
    arguments, command = ([*words, LEGACY] if words else [] for words in CALLERS[caller])
    first = run_in(pod.inside, arguments, image=image.name, command=command)
    assert first.returncode == 0, first.stderr
    assert [line for line in pod.saved("legacy") if line.startswith("-A ISTIO_INBOUND")] == inbound(caller)
    assert pod.saved("nft") == []
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert str(pod.dial_in(9080)) == "pod:15006"

    again = run_in(pod.inside, arguments, image=image.name, command=command)
    assert again.returncode == 0, again.stderr
    assert "already in place" in again.stderr


LIMITED = [*((caller, ()) for caller in CALLERS), *(("1.20.1", (more,)) for more in (LEGACY, "--native-nftables"))]


@pytest.mark.parametrize(("caller", "more"), LIMITED, ids=lambda value: "".join(value) or "as it is")
def test_a_start_with_a_pods_limits(
    ipv4_pod: Pod, image: Image, caller: str, more: tuple[str, ...], tell: Callable[[str], None]
) -> None:
    """With 100m and 50Mi, as pod specs give, each comes up and captures; its time and memory are told."""
    pod = ipv4_pod
    arguments, command = CALLERS[caller]
    program, *rest = [*(command or ("capture", *arguments)), *more]
    with limited() as groups:
        if not groups:
            pytest.skip("no control groups can be made here")
        wall, cpu, resident = start_up(pod.inside, rest, program=program, image=image.name, groups=groups)
    tell(f"{wall} ms with 100m, {cpu} ms of CPU, {resident} MiB; image built in {image.seconds:.0f} s")
    pod.open_listeners()
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert str(pod.dial_in(9080)) == "pod:15006"
    assert resident < 50


def test_both_families_are_captured(pod: Pod, image: Image) -> None:
    """The address that IPv6 needs on lo is added through pyroute2, of which the image left nothing out."""
    pod.open_listeners()
    done = run_in(pod.inside, [*ARGS_1_20_1, "--dual-stack"], image=image.name)
    assert done.returncode == 0, done.stderr
    assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
    assert str(pod.dial("2001:db8::1", 80)) == "pod:15001"
    assert "::6/128" in pod.inside.output("ip", "-6", "addr", "show", "dev", "lo")

    removed = run_in(pod.inside, ["--cleanup-only"], image=image.name)
    assert removed.returncode == 0, removed.stderr
    assert str(pod.dial("9.9.9.9", 80)) == "ext:80"


def test_the_commands_of_people_work(ipv4_pod: Pod, image: Image) -> None:
    """What the init path does without, click and pydantic, is whole as well."""
    for arguments in (["--help"], ["render", "--why"], ["settings", "--output=json"], ["settings", "--output=schema"]):
        done = run_in(ipv4_pod.inside, arguments, image=image.name, capabilities=())
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert "Traceback" not in done.stderr


def test_without_capabilities_it_says_which_one_is_missing(ipv4_pod: Pod, image: Image) -> None:
    """A pod spec that forgot NET_ADMIN fails with an error that names it, and nothing was touched."""
    before = ipv4_pod.state()
    done = run_in(ipv4_pod.inside, ARGS_1_20_1, image=image.name, capabilities=())
    assert done.returncode == 1
    assert "NET_ADMIN" in done.stderr
    assert "Traceback" not in done.stderr
    assert ipv4_pod.state() == before


@pytest.mark.parametrize("user", ["0:0", "1337:1337"])
def test_a_dry_run_needs_no_capability(ipv4_pod: Pod, image: Image, user: str) -> None:
    """-n prints the rules to stdout as root and as the proxy's user, and touches nothing."""
    before = ipv4_pod.state()
    done = run_in(ipv4_pod.inside, [*ARGS_1_20_1, "-n"], image=image.name, capabilities=(), user=user)
    assert done.returncode == 0, done.stderr
    assert "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n" in done.stdout
    assert done.stdout.endswith("COMMIT\n")
    assert ipv4_pod.state() == before


def test_the_runtimes_seccomp_profile_is_enough(ipv4_pod: Pod, image: Image) -> None:
    """The runs above had the profile that podman gives a container unasked, which filters (2) what may be called."""
    asked = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('Seccomp:')])"
    done = run_in(ipv4_pod.inside, image=image.name, command=("/usr/bin/python3", "-IS", "-c", asked))
    assert done.stdout == "['2']\n", done.stderr


def test_nothing_can_be_written(ipv4_pod: Pod, image: Image) -> None:
    """The runs above had no place to write to: not even /run and /tmp."""
    write = "import sys; open(sys.argv[1], 'w')"
    for path in ("/tmp/file", "/run/file", "/file"):  # noqa: S108 # the folder is asked about, not used
        command = ("/usr/bin/python3", "-IS", "-c", write, path)
        done = run_in(ipv4_pod.inside, image=image.name, command=command)
        assert "Read-only file system" in done.stderr


def test_there_is_no_shell(ipv4_pod: Pod, image: Image) -> None:
    """Neither shell, package manager, pip nor compiler is in the image."""
    search = (
        "import shutil; print([n for n in ('sh', 'bash', 'apt-get', 'dpkg', 'pip', 'pip3', 'cc') if shutil.which(n)])"
    )
    done = run_in(ipv4_pod.inside, image=image.name, command=("/usr/bin/python3", "-IS", "-c", search))
    assert done.stdout == "[]\n", done.stderr
