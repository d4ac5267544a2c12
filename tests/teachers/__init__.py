"""Tests of pipeline/teachers."""
