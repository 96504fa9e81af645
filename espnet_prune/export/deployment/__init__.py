"""Programs that decode with an exported model, copied beside it."""
