"""params.yaml as a whole, checked, and expanded into cells."""
