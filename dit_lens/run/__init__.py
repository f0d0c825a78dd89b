"""What executes: the traced denoising loop, streaming reducers, and the records a run leaves behind."""
