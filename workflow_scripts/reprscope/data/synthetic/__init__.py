"""What the rendered datasets are drawn from."""
