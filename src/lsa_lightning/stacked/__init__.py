"""Many seeds at once: stacked copies of a small model, trained in one process by the code that trains a single one."""
