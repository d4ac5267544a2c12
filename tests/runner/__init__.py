"""Tests of pipeline/runner."""
