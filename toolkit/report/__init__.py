"""What an operator reads: status, why a pair went, whether every byte is right, the report page."""
