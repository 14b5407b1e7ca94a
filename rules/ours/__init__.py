"""What is ours of what is live, what older versions and other meshes left, and why a live rule is there."""
