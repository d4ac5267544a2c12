"""Requests to providers and their replies."""
