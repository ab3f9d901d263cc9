"""Training scripts to start from, each a single file: run them, or copy one and change it."""
