"""What others can put in our way: files that are none, names that are no UTF-8, nameservers, an sshd that is none."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capture.errors import NamespaceUnusable
from capture.host import place
from capture.host.facts import read_facts, require_regular
from capture.host.place import Process, ssh_ports
from capture.intent.nameservers import nameserver, nameservers_in
from capture.kernel import files, netns
from capture.netlink.rtnetlink import Address
from rules.addresses import ip_address, ip_network

if TYPE_CHECKING:
    from collections.abc import Callable


# --- nameservers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("10.0.0.10", "10.0.0.10"),
        ("10.1", "10.0.0.1"),
        ("10.1.2", "10.1.0.2"),
        ("010.0.0.7", "8.0.0.7"),
        ("0x0a.0.0.0x7", "10.0.0.7"),
        ("167772161", "10.0.0.1"),
        ("::ffff:10.0.0.10", "10.0.0.10"),
        ("::FFFF:a00:a", "10.0.0.10"),
        ("fe80::1%eth0", "fe80::1"),
        ("fd00::a", "fd00::a"),
        ("0.0.0.0", "127.0.0.1"),
        ("0", "127.0.0.1"),
        ("::ffff:0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
    ],
)
def test_a_nameserver_is_whom_the_kernel_asks(text: str, asked: str) -> None:
    """As glibc reads the word, and as the kernel takes an address of no host."""
    assert nameserver(text) == ip_address(asked)
    assert nameservers_in(f"nameserver {text}\n") == ((ip_network(asked),), ())


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "fd00::/8",
        "10.0.0.256",
        "10.",
        "08.0.0.1",
        "0x",
        "1.2.3.4.5",
        "+1",
        "1_0",
        "",
        "%lo",
        "²",
    ],
)
def test_what_is_no_address_is_passed_over_and_said(text: str) -> None:
    """Least of all is it a network."""
    with pytest.raises(ValueError, match=r"."):
        nameserver(text)
    assert nameservers_in(f"nameserver {text}\n") == ((), (f"nameserver {text}",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver\t10.0.0.1", ["10.0.0.1"]),
        ("nameserver  10.0.0.1  10.0.0.2", ["10.0.0.1"]),
        ("nameserver 10.0.0.1;what", ["10.0.0.1"]),
        ("nameserver 10.0.0.1#what", ["10.0.0.1"]),
        (" nameserver 10.0.0.1", []),
        ("#nameserver 10.0.0.1", []),
        ("nameservers 10.0.0.1", []),
        ("nameserver 10.0.0.1\x0cnameserver 10.0.0.2", []),
        ("nameserver 10.0.0.1\r\nnameserver 10.0.0.2\n", ["10.0.0.2"]),
        ("nameserver fd00::1\nnameserver 10.0.0.1\nnameserver 10.1", ["10.0.0.1", "fd00::1"]),
    ],
)
def test_lines_and_words_end_where_they_do_for_glibc(text: str, found: list[str]) -> None:
    """A line ends at a line feed, a word at blanks and comments; the name stands at its beginning."""
    assert [str(network.network_address) for network in nameservers_in(text)[0]] == found


WORDS = st.text("0123456789abcdefxX.:%", max_size=20) | st.lists(
    st.one_of(st.integers(0, 300).map(str), st.integers(0, 255).map(oct), st.integers(0, 1 << 33).map(hex)),
    min_size=1,
    max_size=5,
).map(lambda parts: ".".join(part.replace("0o", "0") for part in parts))


@given(text=WORDS)
@example("1.2.3.4")
def test_the_c_library_reads_an_ipv4_address_the_same(text: str) -> None:
    """inet_aton(3) itself is the witness."""
    try:
        witness = ip_address(socket.inet_aton(text))
    except OSError:
        witness = None
    try:
        read = nameserver(text)
    except ValueError:
        read = None
    if witness is None:
        assert read is None or ":" in text
    else:
        assert read == (witness if int(witness) else ip_address("127.0.0.1"))


# --- files ----------------------------------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    with path.open("w") as file:
        file.truncate(1 << 40)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a FIFO": (fifo, "it is a FIFO"),
    "/dev/zero": (zeros, "it is a device"),
    "too large": (endless, "it is larger than"),
    "a folder": (Path.mkdir, "it is a directory"),
    "a socket": (listener, "No such device or address"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_of_sane_size_is_an_error_that_says_so(tmp_path: Path, kind: str) -> None:
    """At once: nothing is waited for, and the memory is not filled."""
    make, says = NO_FILES[kind]
    made = tmp_path / "made"
    make(made)
    with pytest.raises(OSError, match=says):
        files.read_text(str(made))
    facts = read_facts({}, str(made))
    assert facts.resolv_conf is None
    assert says in facts.resolv_conf_error
    if kind != "too large":
        with pytest.raises(NamespaceUnusable, match=re.escape(says)):
            netns.enter(str(made))


def test_the_c_library_is_not_asked_for_names_where_it_would_hang(tmp_path: Path) -> None:
    """It opens the files that name users and groups itself, whatever they are."""
    os.mkfifo(tmp_path / "passwd")
    require_regular(str(tmp_path / "none"), __file__)
    with pytest.raises(OSError, match="it is a FIFO, not a regular file"):
        require_regular(__file__, str(tmp_path / "passwd"))
    with pytest.raises(OSError, match="it is a device, not a regular file"):
        require_regular("/dev/zero")


def test_nobody_is_waited_for_who_does_not_read(tmp_path: Path) -> None:
    """A file that is written may be a FIFO with a reader, and not one without."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device or address"):
        files.write_text(str(pipe), "x")
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(str(pipe), "x\udcff")
    assert os.read(reading, 9) == b"x\xff"
    os.close(reading)


def test_bytes_that_are_no_utf8_are_kept(tmp_path: Path) -> None:
    """They come back the same."""
    (tmp_path / "file").write_bytes(b"a\xff\n\xc3\xa9")
    assert files.read_text(str(tmp_path / "file")).encode(errors="surrogateescape") == b"a\xff\n\xc3\xa9"


def test_an_interface_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes that are no UTF-8, or that end a line for Python and not for the kernel."""
    (tmp_path / "dev").write_bytes(b"Inter-|\n face |\n  v\xff: 0 0\n cali\xc2\x851: 0 0\n")
    monkeypatch.setattr(place, "INTERFACES", str(tmp_path / "dev"))
    assert place.interfaces() == ["v\udcff", "cali\x851"]


# --- SSH ------------------------------------------------------------------------------------------------------

HERE = [Address(ip_address("10.1.1.1"), 32)]


@pytest.mark.parametrize("port", ["²", "0", "99999", "-1", "", "٣", "1" * 5000, "2\x1b[2J2", "22\udcff"])
def test_an_ssh_session_at_no_port_is_none(port: str) -> None:
    """Whatever the variable holds."""
    assert ssh_ports([], HERE, {"SSH_CONNECTION": f"1.2.3.4 5 10.1.1.1 {port}"}) == ()


@given(text=st.text())
def test_any_text_may_be_said_to_be_an_ssh_session(text: str) -> None:
    """And is none if it is not one."""
    assert ssh_ports([], HERE, {"SSH_CONNECTION": text}) == ()
    assert ssh_ports([], HERE, {"SSH_CONNECTION": f"{text} {text} 10.1.1.1 22"}) in (
        (),
        ((22, "this SSH session came in there"),),
    )


def test_only_roots_sshd_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may take the name, and would have a port of his choice left alone."""
    monkeypatch.setattr(place, "listening_sockets", lambda: {"7": 2222})
    monkeypatch.setattr(place, "sockets_of", lambda _: iter(["7"]))
    assert ssh_ports([Process(5, "sshd", 65534)], HERE, {}) == ()
    assert ssh_ports([Process(5, "sshd", 0)], HERE, {}) == ((2222, "sshd (pid 5) listens there"),)
