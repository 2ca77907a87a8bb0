"""The speed report: what is measured, how, and what is told about it."""
