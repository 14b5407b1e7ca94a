"""What is not there: impure imports in the thinking, slow ones in what pods run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.rig import Namespace
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

THINKING = sorted((ROOT / "rules").rglob("*.py"))
PURE = {"_collections_abc", "_operator", "rules", "__future__", "bisect", "enum", "itertools", "operator"}
FOR_THE_TYPE_CHECKER = PURE | {"typing", "types", "collections.abc"}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}
SLOW = {
    "click",
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "importlib.metadata",
    "inspect",
    "ipaddress",
    "iptc",
    "json",
    "logging",
    "pathlib",
    "pydantic",
    "pyroute2",
    "re",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
}
"""Modules that cost a pod's start-up more than they are worth there."""


@cache
def parsed(file: Path) -> ast.Module:
    """A file of ours, which several tests read."""
    return ast.parse(file.read_text())


def imported(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Each module that is imported, with its statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            yield node.module or "", node


def only_for_the_type_checker(tree: ast.AST) -> set[ast.AST]:
    """The statements in `if TYPE_CHECKING:` blocks."""
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            guarded.update(inner for statement in node.body for inner in ast.walk(statement))
    return guarded


@pytest.mark.parametrize("file", THINKING, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_of_rules_imports_only_rules_and_the_pure_corners_of_the_library(file: Path) -> None:
    """Values in, values out: nothing that knows a file, socket, process, clock, environment or log is in reach."""
    tree = parsed(file)
    guarded = only_for_the_type_checker(tree)
    for module, statement in imported(tree):
        allowed = FOR_THE_TYPE_CHECKER if statement in guarded else PURE
        assert module in allowed or module.split(".")[0] == "rules", f"line {statement.lineno}: {module}"  # type: ignore[attr-defined] # a statement has one
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & IMPURE_CALLS


def modules_loaded(code: str, *, also: Sequence[str] = ()) -> set[str]:
    """What a bare interpreter has loaded after this code, beyond what it had before."""
    report = "print('\\n'.join(set(sys.modules) - before), file=sys.stderr)"
    program = f"import sys; before = set(sys.modules); sys.path.insert(0, {str(ROOT)!r})\n{code}\n{report}"
    done = subprocess.run(
        [*also, sys.executable, "-I", "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    return set(done.stderr.split("\n")) - {""}


def test_importing_rules_loads_nothing_but_the_pure_corners_of_the_library() -> None:
    """No module of the operating system comes along by another way."""
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in THINKING]
    loaded = {module for module in modules_loaded("import " + ", ".join(modules)) if module.split(".")[0] != "rules"}
    assert loaded <= modules_loaded("import __future__, bisect, enum, operator")


INIT_PATH = """
import os
children = []
sys.addaudithook(lambda event, its: children.append(its[0]) if event == "os.posix_spawn" else None)
from capture.init import run
sys.stdout = open(os.devnull, "w")
status = run({argv!r}, {{"LOG_OUTPUT_LEVEL": "none"}})
assert status == 0, status
assert len(children) <= {most}, children
"""


def init_path(*argv: str, children: int = 0) -> str:
    """A run with these arguments, which succeeds with no more child processes than this."""
    return INIT_PATH.format(argv=list(argv), most=children)


@pytest.mark.parametrize(
    "argv",
    [
        ["-n"],
        ["-n", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*"],
        ["-n", "-x", "10.0.0.1/8,2001:db8::/32", "-o", "22,8000-8080", "-u", "root,1337", "-c", "eth9"],
        ["-n", "--udp", "443=reject", "--log-connections", "log", "--exclude-uids", "5-9", "--ipv6", "reject"],
        ["-n", "--exclude-outbound-ports-for-uids", "tcp:80:5", "-k", "eth9", "--exclude-inbound-cidrs", "10.0.0.0/8"],
        ["-n", "--skip-rule-apply", "--capture-all-dns", "--precedence", "ours", "--take-over", "--allow-host"],
    ],
    ids=["plain", "pod spec", "lists and names", "refusals", "sources and users", "others"],
)
def test_a_dry_run_loads_nothing_slow(argv: list[str]) -> None:
    """Neither click, pydantic, pyroute2 nor any of the library's heavy modules."""
    assert modules_loaded(init_path(*argv)) & SLOW == set()


def test_a_list_in_a_file_loads_nothing_slow(tmp_path: Path) -> None:
    """Nor does reading it."""
    (tmp_path / "networks").write_text("10.0.0.0/8\n# internal\n2001:db8::/32\n")
    assert modules_loaded(init_path("-n", "-x", f"@{tmp_path}/networks")) & SLOW == set()


@pytest.mark.netns
@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize(
    "mode",
    [[], ["--redirect-dns"], ["--dual-stack"], ["-m", "TPROXY", "--dual-stack", "--redirect-dns", "--drop-invalid"]],
    ids=["plain", "DNS", "dual stack", "TPROXY"],
)
def test_applying_loads_nothing_slow(mode: list[str], backend: str) -> None:
    """The same for what a pod runs for real, the first time, again, to see it, and to take it away.

    With nft a family takes one child process, to write, for what is there is known at sight, and none where nothing is
    to be done; with legacy one more, to read. To see it takes one, to take it away three, and with legacy, whose tables
    stay, four.
    """
    with Namespace("modules") as namespace:
        for address in ("10.244.0.5/32", "fd00::5/128"):
            namespace.ip("addr", "add", address, "dev", "lo")
        namespace.set_resolv_conf("nameserver 10.96.0.10\n")
        arguments = ["-p", "15001", "-z", "15006", "-u", "1337", *mode, f"--force-iptables-binary={backend}"]
        families = 2 if "--dual-stack" in mode else 1
        first, again = (1, 0) if backend == "nft" else (2, 1)
        for more, children in (([], first), ([], again), (["-n"], 1)):
            applying = init_path(*arguments, *more, children=children * families)
            assert modules_loaded(applying, also=["ip", "netns", "exec", namespace.name]) & SLOW == set()
            assert "ISTIO_OUTPUT" in namespace.output(f"iptables-{backend}-save")
        for most in (3, 0) if backend == "nft" else (4, 2):
            cleaning = init_path("--cleanup-only", children=most * families)
            assert modules_loaded(cleaning, also=["ip", "netns", "exec", namespace.name]) & SLOW == set()
            assert "ISTIO_OUTPUT" not in namespace.output(f"iptables-{backend}-save")


@pytest.mark.netns
def test_beside_processes_that_opened_no_socket_a_run_loads_what_it_does_alone() -> None:
    """As where a shell is the entrypoint: who listens is not looked for where nobody has a socket."""
    loaded = []
    for beside in ((), ("sh", "-c", '"$@"; exit $?', "sh")):
        with Namespace("modules") as namespace:
            namespace.ip("addr", "add", "10.244.0.5/32", "dev", "lo")
            within = ["ip", "netns", "exec", namespace.name, *beside]
            loaded.append(modules_loaded(init_path("-u", "1337", children=2), also=within))
    assert loaded[0] == loaded[1]


PLUGIN = """
import os
from capture.cni.protocol import answer
call = {{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_NETNS": {netns!r}, "CNI_IFNAME": "eth0"}}
status, result = answer(call, {text!r})
assert (status, result) == (0, {{"ips": []}}), result
import capture.cni.program
"""


@pytest.mark.netns
def test_the_plugin_of_a_runtime_loads_nothing_slow() -> None:
    """ADD stands before a pod's start, as an init container does, and reads JSON besides."""
    annotations = '{"sidecar.istio.io/status": "", "traffic.sidecar.istio.io/excludeOutboundPorts": "22"}'
    runtime = f'"runtimeConfig": {{"io.kubernetes.cri.pod-annotations": {annotations}}}'
    ours = '"capture": {"args": ["-u", "1337", "-p", "15001"]}, "prevResult": {"ips": []}'
    text = f'{{"cniVersion": "1.0.0", "name": "pods", {ours}, {runtime}}}'
    with Namespace("node") as node, Namespace("modules") as namespace:
        namespace.ip("addr", "add", "10.244.0.5/32", "dev", "lo")
        code = PLUGIN.format(netns=namespace.path, text=text)
        loaded = modules_loaded(code, also=["ip", "netns", "exec", node.name])
        assert loaded & SLOW == set()
        assert "ISTIO_OUTPUT" in namespace.output("iptables-nft-save")


@pytest.mark.netns
@pytest.mark.parametrize(
    "mode",
    [[], ["--redirect-dns"], ["--dual-stack"], ["-m", "TPROXY", "--dual-stack", "--redirect-dns", "--drop-invalid"]],
    ids=["plain", "DNS", "dual stack", "TPROXY"],
)
def test_our_own_tables_take_one_child_process_and_nothing_slow(mode: list[str]) -> None:
    """One nft writes both families; what is there is read without any, and taking it away keeps a listing of each."""
    with Namespace("modules") as namespace:
        for address in ("10.244.0.5/32", "fd00::5/128"):
            namespace.ip("addr", "add", address, "dev", "lo")
        namespace.set_resolv_conf("nameserver 10.96.0.10\n")
        arguments = ["-u", "1337", *mode, "--native-nftables"]
        within = ["ip", "netns", "exec", namespace.name]
        for more, children in (([], 1), ([], 0), (["-n"], 0)):
            assert modules_loaded(init_path(*arguments, *more, children=children), also=within) & SLOW == set()
            assert "nat-ISTIO_OUTPUT" in namespace.output("nft", "list", "ruleset")
        assert modules_loaded(init_path("--cleanup-only", children=3), also=within) & SLOW == set()
        assert namespace.output("nft", "list", "ruleset") == ""


def test_all_programs_come_with_the_wheel_and_import_nothing_but_ours() -> None:
    """What pip would write for an entry point imports `re` before anything of ours."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-scripts"]
    assert {name: ROOT / path for path, name in installed.items()} == {
        name: ROOT / "capture/programs" / name for name in ("capture", "capture-cni", "istio-iptables")
    }
    for script in (ROOT / path for path in installed):
        assert os.access(script, os.X_OK)
        assert script.read_text().startswith("#!python\n"), "the installer puts its interpreter there"
        entry = "capture.cni.program" if script.name == "capture-cni" else "capture.__main__"
        assert [module for module, _ in imported(ast.parse(script.read_text()))] == [entry]
    assert "scripts" not in project["project"]
