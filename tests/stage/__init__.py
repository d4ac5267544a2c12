"""Tests of pipeline/stage."""
