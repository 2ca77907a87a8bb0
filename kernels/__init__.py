"""The home of GPU kernels (Triton); installed as `pixelfast.kernels`. There are none yet."""
