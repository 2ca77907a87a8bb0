"""The Triton engine: programs on NVIDIA GPUs."""
