"""The paper: where to audit, how close, what to minimise."""
