"""Getting models: local folders and the Hugging Face hub."""
