"""From a graph to a schedule: when each element can be computed, and when it is."""
