"""Program files and how files are written."""
