"""Data sets: published files, label noise, augmentation, and the splits and batches made of them."""
