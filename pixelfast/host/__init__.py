"""The process around the models: Python objects, locks, forks, PyTorch's switches, and the end of the interpreter."""
