"""The audit of a split model: what an honest but curious coordinator reads off activations and gradients."""
