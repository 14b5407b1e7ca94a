"""One module for each command that people give: its options, words and JSON. Loaded when the command is named."""

from __future__ import annotations

COMMANDS = frozenset(
    {
        *("apply", "check", "clean", "diff", "escapes", "explain", "graph", "render", "settings", "status", "trace"),
        *("verify", "watch"),
    }
)
"""What people name as the first argument: each is a module of this room."""
