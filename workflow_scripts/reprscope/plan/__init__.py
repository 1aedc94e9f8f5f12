"""The study, and what follows from it before any job runs. Only rules import it."""
