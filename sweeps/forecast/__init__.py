"""What a sweep will cost before it runs, and what it did cost afterwards."""
