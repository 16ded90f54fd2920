"""Does labkit do what QEMU does? The same guest takes the same steps on both, and what each traced is compared."""
