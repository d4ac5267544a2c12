"""What evaluations say: accuracies, intervals, verdicts, costs."""
