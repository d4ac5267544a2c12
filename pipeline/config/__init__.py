"""The blocks of params.yaml: names, types, ranges, and the settings that are of no cell."""
