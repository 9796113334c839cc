"""Images as hostile bytes: decoded once, in a child process, and measured."""
