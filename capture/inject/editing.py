"""Our container in the text of a pod: where it goes, and how it comes out again, with every other byte as it was.

Nothing is written anew but what is put in. In block style that are whole lines; between braces, as in JSON, it is
JSON on the same line. What was there before is told by how ours is written: a key that was not there by a list of ours
alone, in block style as lines and between braces as `[ {…} ]`; a list that was empty by `[{…}]`.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from capture.inject.manifests import MERGE, BadManifest, entry, member, text_at
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from capture.inject.manifests import Node, PodText

KEY, CONTAINERS = "initContainers", "containers"
NAME = "capture-init"
"""Of our container, by which it is known."""


class Edit(Value):
    """A part of a text, by the indices of its characters, and what is to stand there."""

    start: int
    end: int
    text: str


def edited(text: str, edits: Iterable[Edit]) -> str:
    """The text with these changes, none of which overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def insertion(text: str, pod: PodText, containers: Sequence[Mapping[str, Any]], name: str = KEY) -> Edit:
    """Put these containers behind the others in a list of a pod. Raises BadManifest."""
    check_keys(pod, name)
    key, listed = entry(pod.spec, name)
    between_braces = ", ".join(json.dumps(each, ensure_ascii=False) for each in containers)
    if key is None:
        first = pod.spec.value[0][0].start_mark
        if pod.spec.flow_style:
            start = text.index("{", pod.spec.start_mark.index) + 1
            return Edit(start, start, f'"{name}":[ {between_braces} ], ')
        if text[line_start(text, first.index) : first.index].strip(" "):
            raise BadManifest(
                [pod.refused("its spec begins on the line of its key, where no line can be put before it")]
            )
        lines = [f"{' ' * first.column}{name}:", *item_lines(containers, first.column)]
        return inserted_lines(text, line_end(text, pod.key.end_mark.index), lines)
    if listed.id == "scalar" and not listed.value and not listed.style and not pod.spec.flow_style:
        at = text.index(":", key.end_mark.index) + 1
        return Edit(at, at, f" [ {between_braces} ]")
    if listed.id != "sequence" or not key.start_mark.index < listed.start_mark.index:
        raise BadManifest([pod.refused(f"{name} is no list that stands there; remove it, or make it []")])
    if listed.flow_style:
        if listed.value:
            at = end_of(listed.value[-1], pod, name)
            return Edit(at, at, f", {between_braces}")
        at = text.index("[", listed.start_mark.index) + 1
        return Edit(at, at, between_braces)
    return inserted_lines(text, end_of_block(text, listed), item_lines(containers, listed.start_mark.column))


def removals(text: str, pod: PodText, names: Collection[str], name: str = KEY) -> Iterator[Edit]:
    """Take containers of these names out of a list of a pod, with what was put in for them."""
    key, listed = entry(pod.spec, name)
    if key is None or listed.id != "sequence":
        return
    ours = [item for item in listed.value if text_at(item, "name") in names]
    if not ours:
        return
    if len(ours) == len(listed.value):
        yield removal_of_all(text, pod, key, listed)
        return
    items = listed.value
    for is_ours, run in groupby(range(len(items)), lambda number: items[number] in ours):
        if not is_ours:
            continue
        numbers = list(run)
        first, last = numbers[0], numbers[-1]
        start, end = items[first].start_mark.index, items[last].end_mark.index
        if not listed.flow_style:
            yield removed_lines(text, line_start(text, start), line_end(text, last_leaf(items[last])))
        elif first:
            yield Edit(items[first - 1].end_mark.index, end, "")
        else:
            yield Edit(start, items[last + 1].start_mark.index, "")


def removal_of_all(text: str, pod: PodText, key: Node, listed: Node) -> Edit:
    """Take all containers of a list out, and the list where it was put in for them."""
    start, end = listed.start_mark.index, listed.end_mark.index
    if not listed.flow_style:
        return removed_lines(text, line_start(text, key.start_mark.index), line_end(text, last_leaf(listed)))
    whole = text[start:end]
    if whole.startswith("[ {") and whole.endswith("} ]"):
        if pod.spec.flow_style:
            return Edit(key.start_mark.index, end + len(", ") if text[end : end + 2] == ", " else end, "")
        return Edit(text.index(":", key.end_mark.index) + 1, end, "")
    return Edit(listed.value[0].start_mark.index, listed.value[-1].end_mark.index, "")


def check_keys(pod: PodText, name: str) -> None:
    """Raises BadManifest where a key is there twice, or only by a merge, which one of ours would hide."""
    named = [key for key, _ in pod.spec.value if key.value == name]
    if len(named) > 1:
        raise BadManifest([pod.refused(f"{name} stands there twice")])
    if not named and member(pod.spec, name) is not None:
        raise BadManifest([pod.refused(f"{name} is merged in by {MERGE}; write it out")])


def item_lines(containers: Iterable[Mapping[str, Any]], column: int) -> list[str]:
    """The containers as items of a list in block style, with JSON behind each of their keys."""
    return [
        f"{' ' * column}{'  ' if number else '- '}{key}: {json.dumps(value, ensure_ascii=False)}"
        for container in containers
        for number, (key, value) in enumerate(container.items())
    ]


def inserted_lines(text: str, at: int, lines: list[str]) -> Edit:
    """These lines, where a line begins; or behind a last line that does not end."""
    newline = "\r\n" if "\r\n" in text else "\n"
    whole = newline.join(lines)
    is_open = at and text[at - 1] != "\n"
    return Edit(at, at, f"{newline}{whole}" if is_open else f"{whole}{newline}")


def removed_lines(text: str, start: int, end: int) -> Edit:
    if text[end - 1] != "\n" and start:  # the end of a text whose last line did not end
        start -= 2 if text[start - 2 : start] == "\r\n" else 1
    return Edit(start, end, "")


def end_of(node: Node, pod: PodText, name: str) -> int:
    """Where a node between brackets ends. Raises BadManifest for an alias, which stands elsewhere."""
    _, listed = entry(pod.spec, name)
    if not listed.start_mark.index < node.start_mark.index < listed.end_mark.index:
        raise BadManifest([pod.refused(f"the last of {name} is an alias; write it out")])
    return int(node.end_mark.index)


def end_of_block(text: str, listed: Node) -> int:
    """Where the line begins that follows the last item of a list in block style: before comments that follow it."""
    last, at = last_leaf(listed), line_start(text, listed.end_mark.index)
    if listed.end_mark.index == len(text) and not text.endswith("\n"):
        at = len(text)
    while at > last:
        before = line_start(text, at - 1)
        line = text[before:at].strip()
        # What begins like a comment on the line of the last item is in a quoted scalar, or behind the item.
        if before < last or (line and not line.startswith("#")):
            break
        at = before
    return at


def last_leaf(node: Node) -> int:
    """Where the last thing of a node ends that stands inside it: an alias stands elsewhere."""
    first, end = node.start_mark.index, node.end_mark.index
    if node.id == "scalar" or node.flow_style:
        return int(end)
    inner = [each for pair in node.value for each in (pair if isinstance(pair, tuple) else (pair,))]
    return max((last_leaf(each) for each in inner if first <= each.start_mark.index < end), default=first)


def line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def line_end(text: str, index: int) -> int:
    """Where the line after this one begins; the end of the text if there is none."""
    if index and text[index - 1] == "\n":  # a block scalar ends with its line
        return index
    found = text.find("\n", index)
    return found + 1 if found >= 0 else len(text)
