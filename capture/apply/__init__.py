"""The order of acts, undoing, removing, and where a run is refused."""
