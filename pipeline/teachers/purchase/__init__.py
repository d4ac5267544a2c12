"""Answers for a round: asked once, paid for, counted, cut."""
