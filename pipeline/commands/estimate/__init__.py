"""`omniopd estimate`: requests, dollars, memory, hours."""
