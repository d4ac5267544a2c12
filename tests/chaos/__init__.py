"""Faults in numbers: `make chaos` injects them by seed and counts what they did.

A kind is a function of a place (a folder and a random generator) that injects one fault, lets the
work go on to its end and returns what it saw. What each kind promises is in docs/reliability.md.
"""
