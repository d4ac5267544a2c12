"""Tokenizer files and chat templates of a model's folder, and prompts as templates write them."""
