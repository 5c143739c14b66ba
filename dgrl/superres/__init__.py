"""Super-resolution: RCAN trained by basicsr, and its use on whole tables of images."""
