"""Processes that stages and commands start, and how they end."""
