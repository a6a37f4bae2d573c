"""Task vectors in less space: packed into few bits, or as a LoRA adapter."""
