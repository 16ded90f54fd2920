"""What stands behind a device: disk images, and the cables of net devices."""
