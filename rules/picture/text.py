"""Text in pictures: how wide it is, where it breaks, and what of it can be shown.

A picture is laid out before anybody knows with which font it will be drawn. So text is measured with the widths of
DejaVu Sans, the widest of the sans-serif fonts that are common, and the fonts that are asked for are narrower.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SANS = "Inter, 'Segoe UI', 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

REGULAR = (
    *(318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636, 636, 636, 636),
    *(636, 636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656),
    *(557, 863, 748, 787, 603, 787, 695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500, 500, 613),
    *(635, 550, 635, 615, 352, 635, 634, 278, 278, 579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818),
    *(592, 592, 525, 636, 337, 636, 838),
)
"""The advance of each printable ASCII character, from the space on, in thousandths of the font's size."""
BOLD = (
    *(348, 456, 521, 838, 696, 1002, 872, 306, 457, 457, 523, 838, 380, 415, 380, 365, 696, 696, 696, 696, 696, 696),
    *(696, 696, 696, 696, 400, 400, 838, 838, 838, 580, 1000, 774, 762, 734, 830, 683, 683, 821, 837, 372, 372, 775),
    *(637, 995, 837, 850, 733, 850, 770, 720, 682, 812, 774, 1103, 771, 724, 725, 457, 365, 457, 838, 500, 500, 675),
    *(716, 593, 716, 678, 435, 716, 712, 343, 343, 665, 343, 1042, 712, 687, 716, 716, 493, 595, 478, 712, 652, 924),
    *(645, 652, 582, 712, 365, 712, 838),
)
OTHERS = {"·": 380, "→": 838, "…": 1000, "–": 500, "“": 657, "”": 657, "’": 380}
MONO_ADVANCE = 615
LONGEST_LINE = 1000
"""No line has more characters."""
SLACK = 1.02
"""Renderers round differently; text never comes closer than this to the end of its room."""
WIDEST = 1150
"""For characters nobody measured: CJK is as wide as high, and fallback fonts are not known."""


def width(text: str, size: float, *, bold: bool = False, mono: bool = False) -> float:
    """How much room this text takes, in the unit of its size."""
    advances = BOLD if bold else REGULAR
    total = 0
    for char in text:
        if " " <= char <= "~":
            total += MONO_ADVANCE if mono else advances[ord(char) - 32]
        else:
            total += max(OTHERS.get(char, WIDEST), MONO_ADVANCE if mono else 0)
    return total * size * SLACK / 1000


def shown(text: str) -> str:
    """Text from outside as it can be shown: no control characters, nothing that turns the direction of others."""
    return "".join(char if char.isprintable() else escape(char) for char in text)


def escape(char: str) -> str:
    return "\\x" + format(ord(char), "02x") if ord(char) < 256 else "\\u" + format(ord(char), "04x")


def fitting(text: str, room: float, size: float, *, bold: bool = False, mono: bool = False) -> int:
    """How many of its characters there is room for."""
    left = room
    for at, char in enumerate(text):
        left -= width(char, size, bold=bold, mono=mono)
        if left < 0:
            return at
    return len(text)


def cut(text: str, room: float, size: float, *, bold: bool = False, mono: bool = False) -> str:
    """The text, or as much of its beginning as there is room for, and an ellipsis."""
    if fitting(text, room, size, bold=bold, mono=mono) == len(text):
        return text
    kept = fitting(text, room - width("…", size, bold=bold, mono=mono), size, bold=bold, mono=mono)
    return text[:kept].rstrip() + "…"


def wrapped(text: str, room: float, size: float, *, lines: int, bold: bool = False) -> list[str]:
    """The text in at most so many lines, broken at spaces, within words that are longer than a line; then cut."""
    done: list[str] = []
    line = ""
    for word in pieces(text.split(), room, size, bold=bold):
        longer = f"{line} {word}" if line else word
        if line and width(longer, size, bold=bold) > room:
            done.append(line.removesuffix(" ·"))
            line = word
        else:
            line = longer
    done.append(line)
    if len(done) > lines:
        rest = " ".join(done[lines - 1 :])
        done = [*done[: lines - 1], cut(rest, room, size, bold=bold)]
    return done


def pieces(words: Iterable[str], room: float, size: float, *, bold: bool) -> Iterator[str]:
    """The words, those that are longer than a line in parts."""
    for word in words:
        at = 0
        while at < len(word):
            taken = fitting(word[at : at + LONGEST_LINE], room, size, bold=bold) or 1
            yield word[at : at + taken]
            at += taken


def number(count: int) -> str:
    """12,345."""
    return f"{count:,}"
