"""A picture of an experiment that runs, on the terminal: below the lines of `omniopd run` and
`omniopd repro`, and in the place of the last one in `omniopd status --watch`."""
