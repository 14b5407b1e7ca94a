"""The doing: asks the host, calls the thinking in `rules`, acts on the kernel, and tells the operator."""

__version__ = "0.1.0"
