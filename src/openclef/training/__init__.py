"""One training loop for every stage; it sees objectives through a Protocol only."""
