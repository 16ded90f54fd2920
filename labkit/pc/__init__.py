"""The PC around the device: ports, PCI, interrupt messages, and what the firmware left behind."""
