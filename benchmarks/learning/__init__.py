"""What models learn: the classic ablations, and short trainings of every architecture."""
