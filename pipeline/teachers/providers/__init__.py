"""A module for each kind of teacher."""
