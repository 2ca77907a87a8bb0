"""Distributions of one sub-pixel or pixel: parameters, validity, draws and log-probabilities; and noise."""
