"""Judgments: every answer that a teacher ever gave, bought once, shared by runs and people."""
