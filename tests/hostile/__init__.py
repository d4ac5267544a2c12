"""Inputs that are wrong in ways that people and machines make them wrong, a table for each area.

Each goes through the entry of a command or a stage, in this process. What is said of it must be
one paragraph with the value found, the value wanted and what to do, and exit status 2; or it is
taken right.
"""
