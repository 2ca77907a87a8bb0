"""Images from files, as integer tensors of K levels: `load` and what it gives."""

from .dataset import Dataset, load

__all__ = ["Dataset", "load"]
