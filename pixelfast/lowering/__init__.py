"""Lowering: from a schedule to a program, and what follows from a program alone."""
