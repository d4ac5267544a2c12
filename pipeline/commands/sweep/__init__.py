"""`omniopd sweep`: a grid of values as arms of one experiment."""
