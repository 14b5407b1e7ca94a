"""One module for each command that people give: its options, words and JSON. Loaded when the command is named."""

from __future__ import annotations

COMMANDS = {
    "apply": "Put the rules in place; so does `capture` with no command.",
    "check": "Will a run work here, and what would it lack?",
    "clean": "Remove all that capture put here.",
    "completion": "Print the completion script of a shell.",
    "diff": "What would a run change?",
    "escapes": "What does not reach the proxy, and why?",
    "explain": "What do these settings mean, in words?",
    "graph": "Draw the chains as a picture.",
    "inject": "Write the init container into manifests.",
    "render": "Print the rules that these settings mean.",
    "report": "Gather all that a bug report needs in one archive.",
    "schema": "Print the JSON schema of what a command prints.",
    "settings": "List the settings, and where each came from.",
    "status": "What is installed here now?",
    "trace": "What becomes of this packet, and why?",
    "verify": "Is what the settings ask for in place?",
    "watch": "Follow counters, connections and drift.",
}
"""What people name as the first argument, each a module of this room, and what it is for in a few words."""
