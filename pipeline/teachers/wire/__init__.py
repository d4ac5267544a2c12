"""What goes to a provider and comes back."""
