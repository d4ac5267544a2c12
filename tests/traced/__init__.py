"""Tests of pipeline/traced."""
