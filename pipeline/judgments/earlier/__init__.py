"""Stores of version 2: read as they are, and brought into the tables of today."""
