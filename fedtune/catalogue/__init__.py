"""The catalogue: pretrained models and data sets that install as ordinary packages, converted once and kept."""
