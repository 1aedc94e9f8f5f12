"""What runs jobs around the work: errors, files, devices, logs. None of it can change a number."""
