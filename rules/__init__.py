"""The thinking: what the kernel should hold, as values and text. Nothing here touches the host."""
