"""Command lines and their exact output."""
