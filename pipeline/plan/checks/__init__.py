"""What must fit together in params.yaml, checked when it loads, before anything runs."""
