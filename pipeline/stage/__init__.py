"""A stage's surroundings: what it is handed, what it keeps, and what it writes beside tables."""
