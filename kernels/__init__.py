"""GPU kernels in Triton, imported as `pixelfast.kernels`: one kernel a file.

A file says what its kernel computes, then comes the kernel, then the function that describes a launch of it; the naive twin of
each is the instruction of the same name in `pixelfast.engines.reference`. `operand.py` says how kernels find numbers in memory.
Importing these modules imports Triton; TRITON_INTERPRET=1, set before, lets them run on the CPU.

Letters: N images, F features, K levels or terms of a sum, I items: (column, image) pairs, image running fastest.
"""
