"""The DGRL network (paper section III)."""
