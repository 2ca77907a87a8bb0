"""Intermediate representations: plain data that the stages hand to each other, and how they print."""
