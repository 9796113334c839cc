"""Execution: the run folder, the only door to the disk, the ledger of what is done, and where tasks run."""
