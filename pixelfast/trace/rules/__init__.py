"""Rules: how ATen operations become nodes of the graph."""
