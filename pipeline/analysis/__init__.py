"""Accuracies, intervals, verdicts and costs from evaluations."""
