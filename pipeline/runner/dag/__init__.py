"""The files below dag/, and what of their cells changed."""
