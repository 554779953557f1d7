"""The pictures of curves, each a function that writes one file."""
