"""A package outside dit_lens that extends it: each thing one file, importing public names only."""
