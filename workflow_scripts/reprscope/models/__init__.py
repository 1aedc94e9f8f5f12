"""Model families, the registry of known models, and the loading of their parts."""
