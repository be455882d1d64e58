"""Parts of train_tiny_r1.py: questions, tokenizer, model, checkpoint, evaluation."""
