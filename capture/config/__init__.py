"""Settings in a file: JSON and YAML in both directions, and what other tools call the same things."""
