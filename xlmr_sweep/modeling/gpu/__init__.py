"""Fine-tuning steps at a GPU's speed: fixed buffers, few launches, captured once as a CUDA graph and replayed."""
