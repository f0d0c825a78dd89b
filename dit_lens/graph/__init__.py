"""What is declared: which values to read, edit, carry and compare."""
