"""results.md, pictures, and the page."""
