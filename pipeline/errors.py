"""Errors that a user can act on: the value found, the value wanted, what to do."""


class UserError(Exception):
    """Bad input. Stages and commands print it as one paragraph and exit with status 1."""
