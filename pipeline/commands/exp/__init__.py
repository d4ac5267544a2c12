"""Experiments of DVC, and its graph by arm."""
