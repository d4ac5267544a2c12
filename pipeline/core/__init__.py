"""What everything else is made of: errors, seeds, files, YAML, JSON, what DVC knows of files."""
