"""What holds for every intent, every former state of the kernel, and the rules of everybody else."""
