"""What is asked of a model: massive channels, their stability, their causes."""
