"""What tests share: stand-ins, tiny models, small tables, a project to run."""
