"""From a user's module to a graph over the image grid."""
