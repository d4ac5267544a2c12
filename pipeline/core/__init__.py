"""The base of everything else: errors, seeds, files, YAML, JSON, what DVC knows of files."""
