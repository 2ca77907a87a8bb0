"""What users pass in: checked once, compared by contents, announced where it had to be guessed."""
