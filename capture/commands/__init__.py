"""One module for each command that people give: its options, words and JSON. Loaded when the command is named."""
