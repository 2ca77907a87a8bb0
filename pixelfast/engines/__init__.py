"""Engines: what runs a program, or the module itself."""
