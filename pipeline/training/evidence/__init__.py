"""What a round is trained on: its examples, and how many of them a budget leaves."""
