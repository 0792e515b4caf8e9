"""Many seeds at once: stacked copies of a small model, trained by the code that trains a single one."""
