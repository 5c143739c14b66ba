"""The DVC stages: files in, files out. Everything that computes is in ``dgrl``."""
