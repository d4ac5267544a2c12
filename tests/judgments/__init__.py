"""Tests of pipeline/judgments."""
