"""The JSON that commands print."""
