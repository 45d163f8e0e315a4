"""The studies and their data, one module each."""
