"""Answers as lines for whoever sits at a terminal: words, columns, colours. JSON has no part in it."""
