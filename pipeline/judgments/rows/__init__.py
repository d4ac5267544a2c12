"""Answers as rows: packed, placed, read and written."""
