"""The tests, and what they stand on: the rig, the demo, the benchmark."""
