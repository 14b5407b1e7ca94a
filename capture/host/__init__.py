"""What the host answers, and what its namespace holds."""
