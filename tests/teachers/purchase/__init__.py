"""Tests of pipeline/teachers/purchase."""
