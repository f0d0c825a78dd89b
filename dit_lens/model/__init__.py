"""What is opened: addresses, what a model calls them, the denoising loop, and the lens around a pipeline."""
