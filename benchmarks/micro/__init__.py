"""Micro-benchmarks: tiny programs through the native engine itself."""
