"""What a run does, act by act, each with its undoing."""
