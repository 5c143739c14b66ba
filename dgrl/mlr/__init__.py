"""The multi-low-resolution (MLR) protocol."""
