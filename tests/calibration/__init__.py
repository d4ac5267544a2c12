"""Tests of pipeline/calibration."""
