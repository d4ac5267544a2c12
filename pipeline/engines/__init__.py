"""Engines generate and score tokens with a model. Importing this package imports no torch."""
