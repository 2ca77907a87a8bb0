"""The command line: pixelfast train | sample | check | eval."""
