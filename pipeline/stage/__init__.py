"""What a stage is handed, keeps, and writes beside its tables."""
