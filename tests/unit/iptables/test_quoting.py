"""Lines, words and quotes: whatever the kernel holds comes back as the same bytes, also through a shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.iptables.quoting import arguments, as_saved, for_shell, lines, quoted, restorable, tokens, typed, unquoted
from tests.rig.chance import share

values = st.binary(max_size=40).map(lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape"))
hard = st.lists(
    st.sampled_from(["\n", '"', "\\", "'", " ", "-j", "\x0b", "\x1c", "\x85", "\u2028", "é", "\udce9"])
).map("".join)


@settings(max_examples=share(1200))
@given(comments=st.lists(values | hard, min_size=1, max_size=4))
def test_any_value_is_one_word_and_itself_again(comments: list[str]) -> None:
    """Whatever bytes it has: what reads like an option is none, and line breaks are part of it."""
    words = [word for comment in comments for word in ("--comment", as_saved(comment))]
    text = " ".join(["-m", "comment", *words, "-j", "ACCEPT"])
    assert tokens(text) == ["-m", "comment", *words, "-j", "ACCEPT"]
    assert arguments(text)[3:-2:2] == comments
    whole = f"*nat\n[1:2] -A OUTPUT {text}\n-A OUTPUT -j DROP\nCOMMIT\n"
    assert [line for _, line in lines(whole)][1:3] == [f"[1:2] -A OUTPUT {text}", "-A OUTPUT -j DROP"]
    assert restorable(text) == text


@given(value=values | hard)
def test_what_is_quoted_is_read_again(value: str) -> None:
    """By us, which is how iptables-restore reads it."""
    if "\n" not in value:
        assert unquoted(quoted(value)) == value
        assert tokens(f"-x {quoted(value)} y") == ["-x", quoted(value), "y"]


def test_a_stray_quote_is_no_quote() -> None:
    """iptables-save does not quote names of interfaces and chains, but iptables-restore takes their quotes for some."""
    text = '-o a"b ! -i "c -m comment --comment "d \\" e" -j "f'
    assert arguments(text) == ["-o", 'a"b', "!", "-i", '"c', "-m", "comment", "--comment", 'd " e', "-j", '"f']
    assert restorable(text) == '-o "a\\"b" ! -i "\\"c" -m comment --comment "d \\" e" -j "\\"f"'


def test_a_quote_that_never_ends_takes_its_own_line_only() -> None:
    """What cannot be a quoted word leaves the lines behind it alone, however many they are."""
    text = '-A OUTPUT --strange "x -j DROP\n' + "-A OUTPUT -j DROP\n" * 2000
    assert len(list(lines(text))) == 2002


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("two words", '"two words"'),
        ("$(reboot)", "'$(reboot)'"),
        ("it's `id`", "'it'\\''s `id`'"),
        ("caf\udce9\x1b[2J\n'", "$'caf\\xe9\\x1b[2J\\x0a\\''"),
        ("", '""'),
        ("!", "!"),
    ],
)
def test_a_word_for_a_shell(word: str, shown: str) -> None:
    """In double quotes if that is enough, as the kernel prints it; control characters are never shown raw."""
    assert for_shell(word) == shown


@pytest.mark.skipif(not shutil.which("bash"), reason="not installed: bash")
def test_what_is_typed_into_a_shell_is_what_was_there() -> None:
    """bash takes the words of a hint for the values that the kernel holds, byte for byte."""
    every = [bytes([byte]).decode(errors="surrogateescape") for byte in range(1, 256)]
    comments = ["".join(every), 'a "b" $HOME `id` !x \\ it\'s', "\n-j DROP\n", "\u2028é\x85"]
    text = " ".join(f"--comment {as_saved(comment)}" for comment in comments) + " -o a\"b'"
    script = f"printf '%s\\0' {typed(text)}"
    said = subprocess.run(
        ["bash", "-c", script.encode(errors="surrogateescape")], capture_output=True, check=True
    ).stdout
    words = said.decode(errors="surrogateescape").split("\0")
    assert words[1:-3:2] == comments
    assert words[-3:-1] == ["-o", "a\"b'"]
