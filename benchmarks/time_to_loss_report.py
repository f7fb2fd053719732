"""Placeholder."""
def write(folder, lines):
  pass
