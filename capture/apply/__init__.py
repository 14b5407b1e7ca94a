"""Steps, the transaction, undoing, removing, and proving."""
