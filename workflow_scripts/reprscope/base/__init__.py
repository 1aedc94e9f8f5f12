"""Settings, seeds, conventions and paths that all stages share."""
