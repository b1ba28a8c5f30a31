"""What programs print: taken at their descriptors, kept whatever becomes of them, and made a text to be read."""
