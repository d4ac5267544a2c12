"""Claims: who may buy which answer, and for how long."""
