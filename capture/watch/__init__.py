"""Watching connections as they come, and what became of them."""
