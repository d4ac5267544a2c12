"""`omniopd share` and `omniopd cache`: what a team has in common."""
