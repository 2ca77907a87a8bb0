"""Files: checkpoints, weight files and arrays, read within limits and written whole."""
