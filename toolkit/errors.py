"""The two ways in which a command ends badly, named after what the caller can do about it."""

from __future__ import annotations


class UserError(Exception):
    """The command, the configuration or its input is wrong: exit code 2.

    The text is one paragraph: what was found, what was expected, where, and what to do next.
    """


class WorkError(Exception):
    """The work failed or is incomplete: exit code 1. Running the same command again may mend it."""
