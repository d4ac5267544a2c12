"""`omniopd status`: what became of each cell, told beside whatever is running."""
