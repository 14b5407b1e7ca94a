"""`@PATH` and `@-`: what a list in a file means, and what is refused, with its line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from capture.errors import BadSettings
from capture.intent.listing import listing
from capture.intent.resolve import resolve
from capture.lists import files
from capture.settings import parsers
from capture.settings.declared import DECLARED, Settings
from rules.netfilter.values import ALL
from tests.rig.in_process import Ended, capture
from tests.rig.memory import Memory
from tests.unit.explain.test_lint import POD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IN_LISTS: dict[str, tuple[str, str]] = {
    "22, 80-90\n443": ("--istio-local-outbound-ports-exclude", "22,80-90,443"),
    "# all of them\n*": ("--istio-inbound-ports", "*"),
    "*,\n": ("--istio-inbound-ports", "*"),
    "10.0.0.0/8,\n\t192.0.2.7 , \r\n2001:db8::/32": ("-x", "10.0.0.0/8,192.0.2.7,2001:db8::/32"),
    "10.0.0.0/8 192.0.2.7 # a comment\r\n\n,,\n\t2001:db8::/32": ("-x", "10.0.0.0/8,192.0.2.7,2001:db8::/32"),
    "\ufeff10.0.0.0/8": ("-i", "10.0.0.0/8"),
    "eth0 # the first\neth#1": ("-c", "eth0,eth#1"),
    "0\n1337": ("-u", "0,1337"),
    "1000-2000\n7": ("--exclude-uids", "1000-2000,7"),
    "443=reject\n8443=drop": ("--udp", "443=reject,8443=drop"),
    "127.0.0.9\n::1": ("--dns-capture-address", "127.0.0.9,::1"),
    "tcp:80,443:1000-2000; udp:53:7\n*:9": (
        "--exclude-outbound-ports-for-uids",
        "tcp:80,443:1000-2000;udp:53:7;*:9",
    ),
    "": ("-q", ""),
    "# nothing\n": ("-b", ""),
}


@pytest.mark.parametrize(("text", "flag", "same"), [(text, *said) for text, said in IN_LISTS.items()])
def test_a_list_in_a_file_is_the_list_on_the_command_line(tmp_path: Path, text: str, flag: str, same: str) -> None:
    """Entries behind commas, spaces and on lines of their own; comments and empty lines are none."""
    file = tmp_path / "list"
    file.write_bytes(text.encode())
    in_a_file, said = Settings.load([flag, f"@{file}"], {}), Settings.load([flag, same], {})
    assert vars(in_a_file).keys() == vars(said).keys()
    differing = {name for name, value in vars(said).items() if value != vars(in_a_file)[name]}
    assert differing <= {"origins", "warnings"}


@pytest.mark.parametrize("setting", DECLARED, ids=lambda setting: setting.name)
def test_whatever_takes_a_list_takes_it_from_a_file(tmp_path: Path, setting: Any) -> None:
    """By each of its flags and variables; and what takes none does not look at the file."""
    takes_a_list = isinstance(setting.default, tuple) or setting.default is ALL or "CIDRs" in setting.about
    takes_a_list = takes_a_list or setting.name in ("proxy_uid", "proxy_gid")
    assert takes_a_list is (setting.read in parsers.SEPARATORS)
    file = tmp_path / "list"
    file.write_text("")
    for argv, environ in [
        *(([f"{flag}=@{file}"], {}) for flag in (setting.short, setting.long) if flag),
        *(([], {name: f"@{file}"}) for name in setting.env),
    ]:
        if takes_a_list:
            assert getattr(Settings.load(argv, environ), setting.name) == ()
        elif setting.read is parsers.text and setting.name != "config":  # which is read at once
            assert getattr(Settings.load(argv, environ), setting.name) == f"@{file}"
        else:
            with pytest.raises(BadSettings, match="refused"):
                Settings.load(argv, environ)


def refused(flag: str, path: str) -> list[str]:
    with pytest.raises(BadSettings) as found:
        Settings.load([flag, path], {})
    return list(map(str, found.value.refusals))


@pytest.mark.parametrize(
    ("flag", "text", "lines"),
    [
        ("-x", "10.0.0.0/8\n10.0.0.0/33, 192.0.2.7 foo", {2: ["10.0.0.0/33", "foo"]}),
        ("-x", "10.0.0.0/8\n\n*", {3: ["*"]}),
        ("-i", "*, 10.0.0.0/8", {1: ["*"]}),
        ("-o", "22\n# 0\n9-8", {3: ["9-8"]}),
        ("-x", "10.0.0.0/8#no space", {1: ["10.0.0.0/8#no"]}),
        ("-c", "eth0 much-too-long-for-an-interface", {1: ["much-too-long-for-an-interface"]}),
        ("--exclude-outbound-ports-for-uids", "80:7\n80:x; y", {2: ["80:x", "y"]}),
    ],
)
def test_each_line_that_is_refused_is_named(tmp_path: Path, flag: str, text: str, lines: dict[int, list[str]]) -> None:
    """All of them, with the file and the entry."""
    file = tmp_path / "list"
    file.write_text(text)
    wanted = [f'flag {flag} "@{file}": line {line}: "{entry}" ' for line, entries in lines.items() for entry in entries]
    if "#no" in text:
        wanted.append(f'flag {flag} "@{file}": line 1: "space" ')
    found = refused(flag, f"@{file}")
    assert len(found) == len(wanted)
    assert all(sentence.startswith(begun) for sentence, begun in zip(found, wanted, strict=True))


def test_of_a_thousand_bad_lines_some_are_named(tmp_path: Path) -> None:
    """And the others counted."""
    file = tmp_path / "list"
    file.write_text("nonsense\n" * 1000)
    found = refused("-x", f"@{file}")
    assert len(found) == 21
    assert found[-1] == f'flag -x "@{file}": 980 more lines are like that'


def test_what_is_no_list_is_refused_by_name(tmp_path: Path) -> None:
    """A FIFO does not keep us, a device or a huge file does not fill the memory."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 9 << 20)
    (tmp_path / "latin").write_bytes(b"10.0.0.0/8\n192.0.2.7 # caf\xe9\n")
    for name, why in {
        "fifo": "it is a FIFO, not a regular file",
        "huge": "it is larger than 8388608 bytes",
        "latin": "line 2: is not UTF-8",
        "none": "No such file or directory",
        ".": "it is a directory, not a regular file",
        "/dev/null": "it is a device, not a regular file",
        "/dev/zero": "it is a device, not a regular file",
        "": "No such file or directory",
    }.items():
        path = f"@{tmp_path / name}" if name else "@"
        (found,) = refused("-x", path)
        assert found.startswith(f'flag -x "{path[:77]}')
        assert why in found
        assert "@PATH names a regular file of at most 8 MiB in UTF-8" in found


def run(argv: list[str], environ: dict[str, str], stdin: str) -> Ended:
    return capture(Memory(), *argv, environ={"DRY_RUN": "true", **environ}, stdin=stdin)


def test_standard_input_is_read_once() -> None:
    """By a flag or a variable, not by two: the second one says who was first."""
    done = run(["-x", "@-"], {}, "192.0.2.7\n198.51.100.0/24 # both\n")
    assert done.status == 0, done.stderr
    assert "-A ISTIO_OUTPUT -d 192.0.2.7/32 -j RETURN" in done.stdout
    assert "-A ISTIO_OUTPUT -d 198.51.100.0/24 -j RETURN" in done.stdout
    twice = run(["-x", "@-"], {"ISTIO_SERVICE_CIDR": "@-"}, "192.0.2.7")
    assert twice.status == 2
    assert (
        'flag -x "@-": cannot be read: environment ISTIO_SERVICE_CIDR has read standard input already' in twice.stderr
    )


def test_it_is_said_where_a_value_came_from(tmp_path: Path) -> None:
    """In the log, in `settings`, and in what surprises: the flag, the file, and the line."""
    file = tmp_path / "list"
    file.write_text("192.0.2.7\n\n10.9.9.9/16\n")
    said = Settings.load(["-x", f"@{file}"], {})
    assert [str(warning) for warning in said.warnings] == [
        f'flag -x "@{file}": line 3: 10.9.9.9/16 has host bits, which mean nothing to a rule: taken as 10.9.0.0/16'
    ]
    (listed,) = [each for each in listing(said, resolve(said, POD)) if each.name == "outbound_cidrs_exclude"]
    assert (listed.text, listed.source) == ("192.0.2.7/32,10.9.0.0/16", f"flag -x, from {file}")
    done = run(["-x", f"@{file}"], {}, "")
    assert f"--istio-service-exclude-cidr=@{file} (flag -x)" in done.stderr


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _: None, "No such file or directory"),
        (lambda file: file.mkdir(), "it is a directory, not a regular file"),
        (lambda file: file.write_bytes(b"1" * (files.MOST_BYTES + 1)), f"it is larger than {files.MOST_BYTES} bytes"),
    ],
    ids=["no file", "a folder", "too large"],
)
def test_why_a_file_cannot_be_read_is_told_in_words(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    """As the kernel says it, without its number; or in our own."""
    make(tmp_path / "list")
    with pytest.raises(BadSettings) as refused:
        Settings.load(["-x", f"@{tmp_path / 'list'}"], {})
    assert f"cannot be read: {why}; " in str(refused.value)
