"""What stands behind a device: disk images so far."""
