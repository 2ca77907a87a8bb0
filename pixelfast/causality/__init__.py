"""Causality: what every element depends on, the proof that a model is autoregressive, and receptive fields."""
