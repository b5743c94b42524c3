"""One trial, and one masked-LM run. Plain PyTorch, no Ray."""
