"""The answers view: what the base student and a trained arm wrote for each evaluated problem."""
