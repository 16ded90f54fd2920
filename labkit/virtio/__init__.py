"""The legacy virtio-pci transport: registers, the rules of the host notifiers, rings, devices and their backends."""
