"""One module for each command that people give: its options, words and JSON. Loaded when the command is named."""

from __future__ import annotations

COMMANDS = {
    "apply": "Put the rules in place: what no command does.",
    "check": "Will a run work here, and what would it lack?",
    "clean": "Remove everything of ours.",
    "completion": "Print what completes our commands in a shell.",
    "diff": "What would a run change?",
    "escapes": "What does not reach the proxy, and why?",
    "explain": "What do these settings mean, in words?",
    "graph": "Draw the chains as a picture.",
    "inject": "Write our init container into manifests.",
    "render": "Print the rules that these settings mean.",
    "report": "Write an archive for an issue.",
    "schema": "Print the JSON schema of what a command prints.",
    "settings": "List the settings, and where each came from.",
    "status": "What is installed here now?",
    "trace": "What becomes of this packet, and why?",
    "verify": "Is what the settings ask for in place?",
    "watch": "Follow counters, connections and drift.",
}
"""What people name as the first argument, each a module of this room, and what it is for in a few words."""
