"""What a trained model is worth: `loss` of a text, and `harness`, which EleutherAI's tasks go through."""
