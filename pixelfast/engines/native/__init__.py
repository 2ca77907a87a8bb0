"""The native engine, `engine="cpu"`: programs run by C++ (csrc/)."""
