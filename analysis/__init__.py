"""What the finished levels say: frames, trade-offs and plots. Never imports torch or ray."""
