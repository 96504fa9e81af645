"""The encoder's forward without gradients: the same outputs, as fast as it goes."""
