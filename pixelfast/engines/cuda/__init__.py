"""The CUDA engine: small nets as one kernel on NVIDIA's Hopper GPUs (csrc/cuda/)."""
