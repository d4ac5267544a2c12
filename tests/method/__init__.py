"""Tests of pipeline/method."""
