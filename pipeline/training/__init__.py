"""The training loop of every objective, alone or on several GPUs."""
