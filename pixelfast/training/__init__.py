"""Training by maximum likelihood, and bits/dim."""
