"""What the kernel offers and tells: memory, processes, terminals, signals, descriptors."""
