"""Everything that a session with a GPU should find out, one program for each part."""
