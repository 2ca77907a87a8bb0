"""Nodes of the graph from tensors of element numbers."""
