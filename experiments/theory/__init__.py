"""What is proved of the methods, measured on the library's own compressors."""
