"""Tests of pipeline/code_digest."""
