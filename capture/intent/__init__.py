"""From settings and what the host answers to what is meant."""
