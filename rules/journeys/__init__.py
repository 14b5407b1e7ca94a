"""All packets at once through all that is asked of them, as the kernel asks it."""
