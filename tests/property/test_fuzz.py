"""Bytes into the readers of what is live: tables or the documented refusal, and what is read prints back byte for byte.

In the suite a sample is drawn anew each time, and its seed is printed; `make test-all` draws as many as the environment
says in CAPTURE_FUZZ_CASES. CAPTURE_FUZZ_SEED repeats a sample.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from capture.iptables.nft_words import counted, led_to, left_out, text_of
from capture.netlink.messages import attributes, messages
from rules.iptables.counters import counters
from rules.iptables.quoting import arguments, lines, restorable, typed
from rules.iptables.reading import NotSaveText, tables
from rules.iptables.writing import rule_text
from rules.live.changes import Append, Delete, Insert, command_text
from rules.netfilter.values import Family
from tests.rig.chance import share
from tests.rig.neighbours import CASES

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBER = int(os.environ.get("CAPTURE_FUZZ_CASES") or share(8000))
"""Of cases in all."""
TEXTS, PROGRAMS = NUMBER * 3 // 4, NUMBER // 4
SEED = int(os.environ.get("CAPTURE_FUZZ_SEED", random.randrange(1 << 32)))
REAL = [line for file in sorted(CASES.glob("*/rules.v?")) for line in file.read_bytes().split(b"\n")]
NASTY = [
    *(
        b"\n",
        b"\r",
        b"\0",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\x85",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\xff",
        b" ",
        b"  ",
        b"\t",
    ),
    *(b'"', b'\\"', b"\\", b"'", b"*nat\n", b"\nCOMMIT\n", b":OUTPUT ACCEPT [0:0]\n", b":OTHERS - [0:0]\n", b"[", b"]"),
    *(
        b"\n-A OUTPUT ",
        b"[5:300] -A OUTPUT ",
        b"[nf_tables 5] ",
        b"[unsupported revision]",
        b"-N ",
        b"# ",
        b"1:2:3",
        b"a/b",
    ),
    *(b"--comment ", b'--comment "', b'" -j ', b"--log-prefix ", b"--limit-burst 3", b"-1", b"4294967296", b"9" * 5000),
    *(b"\xc2\xb2", b"0x", b"::/200"),
]
WORDS = sorted({word for line in REAL for word in line.split(b" ")}) + NASTY

fuzzed = settings(
    max_examples=TEXTS,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

pieces = st.sampled_from(WORDS) | st.binary(max_size=4)
soups = st.lists(pieces, max_size=14).flatmap(lambda some: st.sampled_from([b" ", b""]).map(lambda by: by.join(some)))
chosen = st.lists(st.sampled_from(REAL), min_size=1, max_size=5).map(b"\n".join)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Real lines with some of their bytes cut out, replaced or put elsewhere."""
    text = draw(chosen)
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(text)))
        last = min(len(text), first + draw(st.sampled_from([0, 0, 1, 2, 9, 40])))
        text = text[:first] + draw(pieces) + text[last:]
    return text


bodies = soups | damaged()
texts = bodies | bodies.map(lambda body: b"*nat\n:OUTPUT ACCEPT [0:0]\n:OTHERS - [0:0]\n" + body + b"\nCOMMIT\n")


def is_rule(line: str) -> bool:
    return line[:1] in ("-", "[") and (line if line[0] == "-" else line.partition("] ")[2]).startswith("-A ")


def restored(line: str) -> list[str]:
    """The words of a line as iptables-restore reads them (add_param_to_argv of xshared.c)."""
    words: list[str] = []
    word, is_word, is_quoted, is_escaped = "", False, False, False
    for character in f"{line} ":
        if is_escaped or (is_quoted and character not in '\\"'):
            word, is_escaped = word + character, False
        elif is_quoted and character == "\\":
            is_escaped = True
        elif character == '"':
            is_quoted, is_word = not is_quoted, True
        elif character not in " \t\n":
            word, is_word = word + character, True
        elif is_word:
            words, word, is_word = [*words, word], "", False
    return words


@seed(SEED)
@fuzzed
@given(raw=texts)
def read_and_print(raw: bytes) -> None:
    """One case: bytes as a child's output, as a value, and back."""
    text = raw.decode(errors="surrogateescape")
    for _, line in lines(text):
        arguments(line)
        typed(line)
    assert "\n".join(line for _, line in lines(text)) == text
    counters(text)
    try:
        read = tables(text)
    except NotSaveText:
        return
    given = [line if line[0] == "-" else line.partition("] ")[2] for _, line in lines(text) if is_rule(line)]
    rules = [(block.chain, rule) for table in read for block in table.blocks for rule in block.rules]
    printed = [f"-A {chain} {rule.text}" if rule.text else f"-A {chain}" for chain, rule in rules]
    assert printed == [line.rstrip(" ") if line.count(" ") < 3 else line for line in given]
    assert "\n".join(printed).encode(errors="surrogateescape") in raw or len(printed) != 1
    for chain, rule in rules:
        rule_text(rule)
        for command in (Append(chain, rule), Insert(chain, 1, rule), Delete(chain, rule, 1)):
            command_text(command)
        if not rule.text.startswith("["):
            assert restored(restorable(rule.text)) == arguments(rule.text)


def test_whatever_is_printed_is_read_or_refused_and_printed_back(tell: Callable[[str], None]) -> None:
    """No text is an accident: comments, names and values may be any bytes, and a text may be cut off anywhere."""
    tell(f"{TEXTS} cases, CAPTURE_FUZZ_SEED={SEED}")
    read_and_print()


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


names = st.sampled_from(
    [b"meta", b"payload", b"cmp", b"bitwise", b"immediate", b"lookup", b"range", b"match", b"target", b"nat"]
)
leaves = st.tuples(
    st.integers(1, 7), st.binary(max_size=20) | st.sampled_from([bytes(4), b"\0\0\0\5", b"tcp\0", b"\xff\xff\xff\xfd"])
)
nests = st.lists(leaves, max_size=4).map(lambda those: b"".join(attribute(*one) for one in those))
data = st.lists(st.tuples(st.integers(1, 6), nests | st.binary(max_size=8)), max_size=4).map(
    lambda those: b"".join(attribute(*one) for one in those)
)
steps = st.tuples(names | st.binary(max_size=6), data).map(
    lambda step: attribute(1, attribute(1, step[0] + b"\0") + attribute(2, step[1]))
)
programs = st.lists(steps | st.binary(max_size=9), max_size=6).map(b"".join)


@seed(SEED)
@settings(fuzzed, max_examples=PROGRAMS)
@given(program=programs, handle=st.binary(max_size=8), raw=st.binary(max_size=60))
def read_from_netlink(program: bytes, handle: bytes, raw: bytes) -> None:
    """One case: what netlink tells, in or out of shape."""
    for rule in ({3: handle, 4: program}, attributes(raw)):
        counted(rule)
        led_to(rule)
        for family in Family:
            left_out(rule, family)
            line = text_of(rule, family)
            with contextlib.suppress(NotSaveText):
                tables(f"*nat\n:OTHERS - [0:0]\n-A OUTPUT {line}\nCOMMIT\n")
    with contextlib.suppress(OSError):
        list(messages(raw))


def test_whatever_netlink_tells_is_read(tell: Callable[[str], None]) -> None:
    """Of a rule that makes no sense it says less, and never more."""
    tell(f"{PROGRAMS} cases, CAPTURE_FUZZ_SEED={SEED}")
    read_from_netlink()
