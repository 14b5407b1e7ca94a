"""What is there beside what is planned: changes, precedence, drift, other meshes, why a live rule is there."""
