"""Passes: from a graph to a better graph, and to a schedule."""
