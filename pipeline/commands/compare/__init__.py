"""`omniopd compare`: experiments side by side."""
