"""What is read while the target stands still, and where its bytes come from."""
