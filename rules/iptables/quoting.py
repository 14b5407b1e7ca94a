"""Lines, words and quotes in the texts of iptables, as iptables-save, iptables-restore and a shell read them.

Any bytes may be in quotes. Those that are no UTF-8 are surrogates here (PEP 383), and are bytes again on the way
back.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "[nf_tables "
"""How the text of a rule begins that iptables-save does not print: see `capture.iptables.nft_words`."""
OPTIONS_UNREAD = "[options]"
"""Stands for options of a target that iptables did not print, and that nobody read."""
NEVER_QUOTED = frozenset({"-A", "-N", "-D", "-I", "-i", "-o", "-j", "-g", "-m", "-p"})
"""What stands behind these is printed as it is."""
FREE_TEXT = frozenset({"--comment", "--log-prefix", "--nflog-prefix", "--string", "--helper", "--name"})
"""What stands behind these may read like anything, an option or a target too, and have no quotes."""
MANY = 64
"""Lines of a list from which on they are not read one by one."""
LONGEST_RULE = 10240
"""Bytes that a rule may take in iptables-restore's own reading (xshared.h); what is longer is no rule."""


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text, each with its number. A rule's line goes on where a quoted word has a line break in it.

    Nothing but a line feed ends a line: the kernel takes every other character in a comment (str.splitlines would end
    one at a form feed, too).
    """
    reader = Lines(text)
    while (line := reader.next()) is not None:
        yield reader.number, line


class Lines:
    """The same line by line, for who may know what comes next without looking at it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.number = 0
        """Of the line that was read last."""
        self.start = 0
        """Where that begins."""
        self.behind = 0
        """Where the next one begins."""
        self.through = 0
        """The number of the last line feed before that."""

    def next(self) -> str | None:
        """The next line; None behind the last one."""
        self.start, self.number = self.behind, self.through + 1
        if self.start > len(self.text):
            return None
        line = self.taken()
        if '"' in line and line[0] in "-[" and is_open(line):
            whole, at = line, (self.behind, self.through)
            while self.behind <= len(self.text) and len(whole) <= LONGEST_RULE:
                following = self.taken()
                whole = f"{whole}\n{following}"
                if '"' in following and not is_open(whole):
                    return whole
            self.behind, self.through = at
        return line

    def taken(self) -> str:
        end = self.text.find("\n", self.behind)
        end = len(self.text) if end < 0 else end
        line = self.text[self.behind : end]
        self.behind, self.through = end + 1, self.through + 1
        return line

    def listed(self, chain: str, words: str) -> tuple[int, int, int] | None:
        """Where many lines of one chain begin and end that differ in a network alone, and how many these are.

        `words` are those of the first, which was read; None if there are few. They are passed over.
        """
        if words[:3] not in ("-d ", "-s ") or words.count(" ") != 3:
            return None
        _, _, behind = words.split(" ", 2)
        before, behind = f"-A {chain} {words[:3]}", f" {behind}"
        at, count = self.behind, 1
        while self.text.startswith(before, at):
            end = self.text.find("\n", at)
            target = end - len(behind)
            if self.text.find(" ", at + len(before)) != target or not self.text.startswith(behind, target):
                break
            at, count = end + 1, count + 1
        if count < MANY:
            return None
        self.behind, self.through = at, self.through + count - 1
        return self.start, at, count

    def comes(self, known: str, but: tuple[str, ...]) -> bool:
        """Whether the line that was read last and those behind it are these, and the next one does not begin so.

        Then they are passed over.
        """
        end = self.start + len(known)
        if not self.text.startswith(known, self.start) or self.text.startswith(but, end):
            return False
        self.behind, self.through = end, self.number - 1 + known.count("\n")
        return True


def command(line: str) -> tuple[str, str, str]:
    """A rule's line in three: the command, the chain, and the rule to the letter; its counters are left out."""
    if line[0] == "[":
        line = line.partition("] ")[2]
    verb, _, rest = line.partition(" ")
    chain, _, words = rest.partition(" ")
    return verb, chain, words


def tokens(line: str) -> list[str]:
    """The words of a line. A quoted word keeps its quotes, so that it cannot be taken for an option."""
    return plainly_split(line) or split(line)[0]


def is_open(line: str) -> bool:
    """Whether a quoted word begins in this line and does not end in it."""
    return not plainly_split(line) and split(line)[1]


def plainly_split(line: str) -> list[str]:
    """The words of a line that has quotes around whole words and nowhere else, and no backslash; none of another.

    It is what nearly all lines are, and a node has very many.
    """
    parts = line.split('"')
    if len(parts) == 1:
        return [word for word in line.split(" ") if word]
    if len(parts) % 2 == 0 or "\\" in line or parts[-1][:1] not in ("", " "):
        return []
    words: list[str] = []
    for at, part in enumerate(parts):
        if at % 2:
            words.append(f'"{part}"')
            continue
        if at and part and part[0] != " ":
            return []
        words += [word for word in part.split(" ") if word]
        if at + 1 < len(parts) and (part[-1:] != " " or (words and words[-1] in NEVER_QUOTED)):
            return []
    return words


def split(line: str) -> tuple[list[str], bool]:
    """The words of a line, and whether the last one is quoted and does not end here.

    iptables-save puts quotes around a whole word, or none (xtables_save_string); what it never quotes, names of
    chains and interfaces, may have a quote of its own.
    """
    if '"' not in line:
        return [word for word in line.split(" ") if word], False
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at] == " ":
            at += 1
            continue
        end = line.find(" ", at)
        end = len(line) if end < 0 else end
        if line[at] == '"' and (not words or words[-1] not in NEVER_QUOTED):
            end = end_of_quoted(line, at)
            if end < 0:
                return [*words, line[at:]], True
        words.append(line[at:end])
        at = end
    return words, False


def end_of_quoted(line: str, at: int) -> int:
    """Where the quoted word ends that begins here; -1 if it does not."""
    at += 1
    while True:
        quote, escape = line.find('"', at), line.find("\\", at)
        if quote < 0:
            return -1
        if 0 <= escape < quote:
            at = escape + 2
        elif quote + 1 == len(line) or line[quote + 1] == " ":
            return quote + 1
        else:
            at = quote + 1


def unquoted(word: str) -> str:
    """What a word of iptables-save stands for: without quotes, and the backslashes that keep them apart."""
    if len(word) < 2 or word[0] != '"' or word[-1] != '"':
        return word
    parts = word[1:-1].split("\\\\")
    return "\\".join(part.replace("\\", "") for part in parts)


def quoted(word: str) -> str:
    """The word as iptables-restore reads it: in quotes if they are needed."""
    if word and not QUOTES_NEEDED.intersection(word):
        return word
    inside = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inside}"'


QUOTES_NEEDED = frozenset(" \t\n\"'\\")


def as_saved(value: str) -> str:
    """The value as iptables-save prints it (xtables_save_string)."""
    if value and NEVER_QUOTES.issuperset(value):
        return value
    return '"' + "".join(f"\\{character}" if character in "\"\\'" else character for character in value) + '"'


NEVER_QUOTES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def restorable(text: str) -> str:
    """A rule that iptables-save printed, as iptables-restore reads it: to the letter, but for stray quotes and tabs.

    In names of interfaces and chains iptables-save prints them as they are; to iptables-restore a quoted word begins
    with the one, and ends with the other.
    """
    if STRAY.isdisjoint(text):
        return text
    return " ".join(
        quoted(value) if not STRAY.isdisjoint(word) and not is_quoted_as_a_whole(word, value) else word
        for word, value in zip(tokens(text), arguments(text), strict=True)
    )


STRAY = frozenset('"\t')


def is_quoted_as_a_whole(word: str, value: str) -> bool:
    """Whether iptables-restore, too, takes these quotes for those of the whole word."""
    return word != value and '"' not in word[1:-1].replace("\\\\", "").replace('\\"', "")


def arguments(text: str) -> list[str]:
    """A rule that iptables-save printed, as the arguments of iptables(8)."""
    words = tokens(text)
    before = ["", *words]
    return [word if behind in NEVER_QUOTED else unquoted(word) for behind, word in zip(before, words, strict=False)]


def typed(text: str) -> str:
    """A rule that iptables-save printed, as one types it into a shell (bash, or another with $'…')."""
    return " ".join(map(for_shell, arguments(text)))


PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=:,./@%")


def for_shell(word: str) -> str:
    """The word as a shell reads it; what cannot be seen is written as an escape."""
    if (PLAIN.issuperset(word) and word) or word == "!":
        return word
    if not word.isprintable():
        return f"$'{''.join(map(escaped, word))}'"
    if not QUOTED_STILL.intersection(word):
        return f'"{word}"'
    return "'" + word.replace("'", "'\\''") + "'"


QUOTED_STILL = frozenset('$`\\"!')
"""What means something to a shell inside of double quotes, too."""


def escaped(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
