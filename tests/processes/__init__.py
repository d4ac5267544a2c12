"""Tests of pipeline/processes."""
