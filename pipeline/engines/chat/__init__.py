"""What a model's folder says of its text, and prompts as its template writes them."""
