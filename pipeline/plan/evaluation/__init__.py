"""What a plan says of how its arms are evaluated."""
